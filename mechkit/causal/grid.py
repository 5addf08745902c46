"""The cells of a sweep: which sites, layers, heads and positions are patched, and what each is called."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from numbers import Integral
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..errors import PatchingError
from ..models.families import Family
from ..models.sites import GLOBAL_SITES, HEAD_SITES, Site
from ..tasks.pairs import Pairs

DIMENSIONS = ("site", "layer", "head", "position")
PAD = -1
ALL = "all"


@dataclass(frozen=True)
class Cell:
    """One intervention: a site, whole or one head, and where it stands in the result's (site, layer, head) axes."""

    name: str
    layer: int
    head: int | None
    index: tuple[int, int, int]

    @property
    def site(self) -> Site:
        """The site to patch."""
        return Site(self.name, None if self.name in GLOBAL_SITES else self.layer, self.head)


@dataclass(frozen=True)
class Column:
    """One place on the position axis: for each pair the positions patched together, -1 where it has none."""

    label: int | str
    where: Int[Tensor, "pairs k"]


@dataclass(frozen=True)
class Grid:
    """All cells × columns. `sites` are names (every layer is swept) or whole sites such as `z.5`."""

    sites: tuple[str, ...]
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    columns: tuple[Column, ...]
    cells: tuple[Cell, ...]
    over: tuple[str, ...]
    """The dimensions that the result has, in order, before `example`."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Sizes of (site, layer, head, position), 1 where a dimension is not swept."""
        return len(self.sites), max(1, len(self.layers)), max(1, len(self.heads)), len(self.columns)


def plan(
    family: Family,
    pairs: Pairs,
    sites: str | Site | Sequence[str | Site],
    over: Sequence[str],
    positions: Any,
) -> Grid:
    """Lay out a sweep. Errors: PatchingError and SiteError that name what does not fit, and the fix."""
    listed = [sites] if isinstance(sites, str | Site) else list(sites)
    asked = (over,) if isinstance(over, str) else tuple(over)
    if not listed:
        raise PatchingError("patch(sites=[]): name at least one site, as in sites='resid_pre'")
    unknown = [name for name in asked if name not in DIMENSIONS]
    if unknown or len(set(asked)) < len(asked):
        raise PatchingError(f"patch(over={asked}): choose among {', '.join(DIMENSIONS)}, each once")
    parsed = [_parse(family, site, "layer" in asked) for site in listed]
    if len({str(site) for site in listed}) < len(listed):
        raise PatchingError(f"patch(sites={[str(site) for site in listed]}): a site is named twice")
    layers = tuple(range(family.n_layers)) if "layer" in asked else ()
    heads = _heads(family, parsed) if "head" in asked else ()
    columns = _columns(pairs, positions, "position" in asked)
    cells = tuple(_cells(family, parsed, layers, heads))
    named = len(listed) > 1 or "site" in asked or "layer" not in asked
    dims = tuple(dim for dim in DIMENSIONS if dim in asked or (dim == "site" and named))
    return Grid(tuple(map(str, listed)), layers, heads, columns, cells, dims)


def _parse(family: Family, site: str | Site, over_layer: bool) -> Site:
    """A site; a bare layer name stands for that site in layer 0 until the layers are laid out."""
    bare = isinstance(site, str) and "." not in site and site not in GLOBAL_SITES
    if bare and not over_layer:
        raise PatchingError(
            f"patch(sites={site!r}): which layer? Put 'layer' into over, or name it, as in sites='{site}.5'"
        )
    parsed = family.check(Site(str(site), 0) if bare else Site.parse(site))
    if over_layer and not bare:
        raise PatchingError(
            f"patch(sites={str(site)!r}): over has 'layer', so name sites without one, as in 'resid_pre'"
        )
    return parsed


def _heads(family: Family, sites: Sequence[Site]) -> tuple[int, ...]:
    for site in sites:
        if site.name not in HEAD_SITES:
            raise PatchingError(f"patch: over has 'head', but {site.name} has none; sites with heads: {HEAD_SITES}")
        if site.head is not None:
            raise PatchingError(f"patch(sites={str(site)!r}): over has 'head', so name the site without one")
    return tuple(range(max(_n_heads(family, site.name) for site in sites)))


def _n_heads(family: Family, name: str) -> int:
    return family.n_kv_heads if name in ("k", "v") else family.n_heads


def _cells(family: Family, sites: Sequence[Site], layers: Sequence[int], heads: Sequence[int]) -> list[Cell]:
    cells = []
    for (s, site), (i, layer), (h, head) in product(
        enumerate(sites), enumerate(layers or (None,)), enumerate(heads or (None,))
    ):
        if head is not None and head >= _n_heads(family, site.name):
            continue  # fewer key/value heads than query heads: the cell stays NaN
        at = layer if layer is not None else site.layer if site.layer is not None else 0
        cells.append(Cell(site.name, at, site.head if head is None else head, (s, i, h)))
    return cells


def _columns(pairs: Pairs, positions: Any, swept: bool) -> tuple[Column, ...]:
    lengths = pairs.lengths
    if positions is None and swept and bool((lengths != lengths[0]).any()) and len(pairs.positions) > 1:
        # numbers mean nothing across prompts of different length, names do
        means = [(float(where.float().mean()), name) for name, where in pairs.positions.items()]
        positions = [name for _, name in sorted(means)]
    if positions is None or (isinstance(positions, str) and positions == ALL):
        longest = int(pairs.positions["END"].max()) + 1
        if swept:
            return tuple(_column(pairs, position) for position in range(longest))
        whole = torch.arange(int(lengths.max())).expand(len(pairs), -1)
        return (Column(ALL, torch.where(whole < lengths[:, None], whole, PAD)),)
    listed = _several([positions] if isinstance(positions, Integral | str) else positions)
    if not listed:
        raise PatchingError("patch(positions=[]): name at least one position, or leave it out for all")
    columns = [_column(pairs, position) for position in listed]
    if swept:
        if len({column.label for column in columns}) < len(columns):
            raise PatchingError(f"patch(positions={listed}): a position is named twice")
        return tuple(columns)
    joined = torch.cat([column.where for column in columns], dim=1)
    return (Column("+".join(str(column.label) for column in columns), joined),)


def _several(positions: object) -> list[int | str]:
    given = positions.tolist() if isinstance(positions, Tensor | np.ndarray) else positions
    fine = isinstance(given, Sequence) and all(isinstance(p, Integral | str) and not isinstance(p, bool) for p in given)
    if not fine:
        raise PatchingError(f"patch(positions={positions!r}): expected token numbers, named positions or 'all'")
    return [p if isinstance(p, str) else int(p) for p in given]  # type: ignore[union-attr]


def _column(pairs: Pairs, position: int | str) -> Column:
    lengths = pairs.lengths
    if isinstance(position, str):
        if position not in pairs.positions:
            raise PatchingError(
                f"patch: no position is called {position!r}; this task names {', '.join(pairs.positions)}"
            )
        where = pairs.positions[position].cpu()
    else:
        where = torch.full_like(lengths, position) if position >= 0 else lengths + position
    where = torch.where((where >= 0) & (where < lengths), where, PAD)
    if bool((where == PAD).all()):
        raise PatchingError(
            f"patch: position {position!r} lies outside every prompt; they have up to {lengths.max()} tokens"
        )
    return Column(position, where[:, None])


def position_tokens(pairs: Pairs, columns: Sequence[Column], show: Callable[[int], str]) -> list[str]:
    """What stands at each column: the token where all pairs share it, else the position's name, else `·`."""
    named = [(name, where.tolist()) for name, where in pairs.positions.items()]
    shown = []
    for column in columns:
        if isinstance(column.label, str):
            shown.append(column.label)
            continue
        where = column.where[:, 0].tolist()
        tokens = {prompt[at] for prompt, at in zip(pairs.clean, where, strict=True) if at != PAD}
        names = [name for name, at in named if at == where]
        label = show(tokens.pop()) if len(tokens) == 1 else "·"
        shown.append(f"{label} ({'/'.join(names)})" if names and label != "·" else "/".join(names) or label)
    return shown
