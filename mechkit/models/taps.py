"""Torch hooks for one forward pass: what is read, what is edited, and where the pass may stop.

Every site asked for gets one hook. A hook takes the site's activation out of its submodule's tensor, applies the
site's edits, keeps it if it is read, and puts it back only if something changed. Three kinds of site are not a tensor
of one submodule: `resid_mid` is written through attn_out, `result` is z through the output projection, and scores and
pattern live inside the attention function.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ..errors import EditError, SiteError
from .edits import Edit
from .families import Family, Place, is_plain
from .selections import resolve_positions
from .sites import Site

# The order of computation: hooks on one submodule run in the order in which they were registered.
ORDER = (
    *("embed", "resid_pre", "q", "k", "v", "attn_scores", "pattern", "z", "result", "attn_out", "resid_mid"),
    *("mlp_pre", "mlp_post", "mlp_out", "resid_post", "ln_final", "logits"),
)

LogitPositions = Int[Tensor, "batch n"] | None


class Stop(Exception):
    """Raised inside the forward pass when nothing later is wanted."""


class Taps:
    """The hooks of one forward pass and what they caught."""

    def __init__(
        self,
        family: Family,
        reads: Sequence[Site],
        edits: Sequence[Edit],
        lengths: Int[Tensor, "batch"],
        *,
        gradients: bool,
        stop_early: bool,
    ):
        self.family = family
        for site in (*reads, *(edit.site for edit in edits)):
            if site.name == "result" and not is_plain(family.output_projection(family.check(site).depth)):
                raise SiteError(
                    f"site {site}: the output projection is wrapped (an adapter, a hook of yours), so that what one "
                    "head writes is not its part of a weight; read or edit z instead"
                )
        self.reads = {family.check(site).whole for site in reads}
        self.edits: dict[Site, list[Edit]] = {}
        for edit in edits:
            self.edits.setdefault(family.check(edit.site).whole, []).append(edit)
        self.lengths = lengths
        self.gradients = gradients
        self.stop_early = stop_early
        self.pending = {site for site in (*self.reads, *self.edits) if site.name != "logits"}
        self.caught: dict[Site, Tensor] = {}

    # -- one activation --------------------------------------------------------------------------------------------

    def visit(self, site: Site, activation: Tensor) -> Tensor:
        """Edit and keep one activation; the same object comes back where nothing changed.

        With gradients, what is kept must be the very node that the rest of the pass uses, so it is always put back.
        """
        for edit in self.edits.get(site, ()):
            activation = edit.apply(activation, self.lengths)
        if site in self.reads:
            if self.gradients:
                activation = activation.view_as(activation)
                if not activation.requires_grad:
                    activation = activation.detach().requires_grad_()
            self.caught[site] = activation
        self.pending.discard(site)
        return activation

    def _finish(self) -> None:
        if self.stop_early and not self.pending:
            raise Stop

    def unfired(self) -> list[Site]:
        """Sites that no hook has reached."""
        return sorted(self.pending, key=str)

    # -- the hooks -------------------------------------------------------------------------------------------------

    @contextmanager
    def open(self) -> Iterator[None]:
        """Install every hook; remove them all at the end, whatever happens."""
        wanted = sorted(self.pending, key=lambda site: ORDER.index(site.name))
        mids = {site.depth for site in wanted if site.name == "resid_mid"}
        inside = frozenset(site.depth for site in wanted if site.name in ("attn_scores", "pattern"))
        with ExitStack() as stack:
            for site in wanted:
                if site.name == "result":
                    handle = self._hook_result(site)
                elif site.name in ("attn_scores", "pattern", "resid_mid"):
                    continue
                else:
                    handle = self._hook_place(site, self.family.place(site))
                stack.callback(handle.remove)
            for layer in sorted(mids):
                for handle in self._hook_resid_mid(layer):
                    stack.callback(handle.remove)
            stack.enter_context(self.family.tapped_attention(inside, self._visit_attention))
            yield

    def _visit_attention(self, site: Site, activation: Tensor) -> Tensor:
        if site not in self.reads and site not in self.edits:
            return activation
        activation = self.visit(site, activation)
        self._finish()
        return activation

    def _hook_place(self, site: Site, place: Place) -> Any:
        def change(tensor: Tensor) -> Tensor | None:
            before = place.take(tensor)
            after = self.visit(site, before)
            replaced = None if after is before else place.put(tensor, after)
            self._finish()
            return replaced

        return _hook(place.module, place.side, change)

    def _hook_result(self, site: Site) -> Any:
        """Add what the edits changed to the projection's output; with gradients, route them through the heads."""
        module = self.family.output_projection(site.depth)

        def after(_module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
            z = inputs[0].unflatten(-1, (-1, self.family.d_head))
            result = torch.einsum("bphd,hdm->bphm", z, self.family.result_weight(site.depth))
            changed = self.visit(site, result)
            self._finish()
            if changed is result:
                return None
            if self.gradients:
                return output.detach() + (changed - result.detach()).sum(dim=-2)
            return output + (changed - result).sum(dim=-2)

        return module.register_forward_hook(after)

    def _hook_resid_mid(self, layer: int) -> list[Any]:
        """resid_mid = resid_pre + attn_out is no submodule's tensor: it is written by changing attn_out.

        A write to the second norm's input would reach the MLP and not the residual stream.
        """
        site = Site("resid_mid", layer)
        residual: list[Tensor] = []

        def keep(tensor: Tensor) -> None:
            residual[:] = [tensor]

        def change(attn_out: Tensor) -> Tensor | None:
            before = residual.pop()
            mid = before + attn_out
            changed = self.visit(site, mid)
            self._finish()
            if changed is mid:
                return None
            return changed - before if self.gradients else attn_out + (changed - mid)

        return [
            _hook(self.family.layers[layer], "input", keep),
            _hook(self.family.attention_output_module(layer), "output", change),
        ]


def select_logits(family: Family, positions: LogitPositions) -> Any:
    """Let the unembedding see the chosen positions alone; returns the hook's handle."""

    def gather(residual: Tensor) -> Tensor:
        assert positions is not None
        rows = torch.arange(len(residual), device=residual.device)[:, None]
        return residual[rows, positions.to(residual.device)]

    return _hook(family.unembedding, "input", gather)


def _hook(module: nn.Module, side: str, change: Any) -> Any:
    """Call `change` with the module's first input or output tensor; what it returns, unless None, replaces it."""
    if side == "input":

        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                changed = change(args[0])
                return None if changed is None else ((changed, *args[1:]), kwargs)
            changed = change(kwargs["hidden_states"])
            return None if changed is None else (args, kwargs | {"hidden_states": changed})

        return module.register_forward_pre_hook(before, with_kwargs=True)

    def after(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        if not isinstance(output, tuple):
            return change(output)
        changed = change(output[0])
        return None if changed is None else (changed, *output[1:])

    return module.register_forward_hook(after)


def never_fired(sites: Sequence[Site], stopped: bool) -> EditError:
    """The error for sites that the forward pass never reached."""
    why = "the pass had stopped, since nothing later was asked for" if stopped else "its submodule was never called"
    return EditError(f"no activation ever passed {', '.join(map(str, sites))}: {why}")


def pick_reads(caught: Mapping[Site, Tensor], positions: object, lengths: Int[Tensor, "batch"]) -> dict[Site, Tensor]:
    """Keep the chosen positions of each activation; a single position drops the axis."""
    if positions is None:
        return dict(caught)
    picked = {}
    for site, activation in caught.items():
        axis = site.axes.index("position")
        table = resolve_positions(positions, lengths, activation.shape[axis], f"read of {site}").to(activation.device)
        moved = activation.movedim(axis, 1)
        rows = torch.arange(len(moved), device=moved.device)[:, None]
        chosen = moved[rows, table].movedim(1, axis)
        picked[site] = chosen.squeeze(axis) if isinstance(positions, Integral) else chosen
    return picked
