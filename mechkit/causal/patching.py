"""Activation patching: put one run's activations into the other, cell by cell, and see what the metric does.

Denoising puts clean activations into the corrupted run: what *restores* the behaviour. Noising puts corrupted
activations into the clean run: what *breaks* it. Either way 0 means "like corrupted" and 1 "like clean". Sources: Meng
et al. 2022 (arXiv 2202.05262), Wang et al. 2023 (arXiv 2211.00593); on the choices, Heimersheim & Nanda 2024 (arXiv
2404.15255) and Zhang & Nanda 2024 (arXiv 2309.16042).

Units: `.raw` is the task's metric; `.effect` is a fraction of the mean gap between the clean and the corrupted run.
"""

import platform
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from ..errors import FallbackWarning, PatchingError
from ..models import HookedModel, Site
from ..results import EffectResult
from ..tasks import Task
from ..tasks.pairs import Pairs
from .forwarding import sweep_by_forward
from .grid import ALL, DIMENSIONS, Grid, plan, position_tokens
from .sweeping import Disagreement, ReplaySweep, Swept, default_memory


def patch(
    model: HookedModel,
    task: Task,
    sites: str | Site | Sequence[str | Site] = "resid_pre",
    over: str | Sequence[str] = ("layer", "position"),
    *,
    positions: Any = None,
    direction: str = "denoising",
    method: str = "auto",
    max_memory: float | int | None = None,
    progress: bool = True,
) -> EffectResult:
    """Patch every cell of a grid, exactly, and measure the task's metric for each pair.

    - sites: site names, swept over the layers ("resid_pre", "z", …), or particular sites ("z.5.3") with `over` lacking
      "layer".
    - over: any of "layer", "head", "position"; what is not swept is patched as a whole.
    - positions: token numbers (negative from the end), the task's named positions ("S2", "END"), or "all"; one cell
      each if "position" is in `over`, else patched together. By default all; but the named ones where `over` has
      "position" and prompts differ in length, since a number then stands for something else in every prompt.
    - max_memory: bytes; a quarter of what is free by default.

    Method "auto" replays only what each patch can change, after checking replay against the model's own logits on one
    prompt of each length; where they disagree, or the module carries hooks of yours, it falls back to full forward
    passes, with a FallbackWarning. "replay" and "forward" insist.

    Returns an EffectResult with dims among (site, layer, head, position) and example. Cells that a patch cannot
    reach (before the prompts differ, after the answer) hold the unpatched value; positions that a prompt does not
    have are NaN. Errors: PatchingError, SiteError, MetricError.
    """
    _check_arguments(model, task, direction, method, max_memory)
    grid = plan(model.family, task.pairs, sites, over, positions)
    denoising = direction == "denoising"
    swept, used = None, "replay"
    if method != "forward":
        memory = int(max_memory) if max_memory else default_memory(model.device)
        try:
            _refuse_hooks(model)
            swept = ReplaySweep(model, task.pairs, task.metric, grid, denoising, memory).run(progress)
        except Disagreement as found:
            _explain(model, found, insist=method == "replay")
    if swept is None:
        swept, used = sweep_by_forward(model, task.pairs, task.metric, grid, denoising, progress), "full forwards"
    _check_changed(swept, task.pairs, grid, denoising)
    return _result(swept, grid, model, task, {"direction": direction, "method": used})


def _check_arguments(model: object, task: object, direction: str, method: str, max_memory: object) -> None:
    if not isinstance(model, HookedModel) or not isinstance(task, Task):
        got = f"{type(model).__name__} and {type(task).__name__}"
        raise PatchingError(f"patch: expected a HookedModel (mk.load) and a Task (mk.tasks), got {got}")
    for name, value, known in (
        ("direction", direction, ("denoising", "noising")),
        ("method", method, ("auto", "replay", "forward")),
    ):
        if value not in known:
            raise PatchingError(f"patch({name}={value!r}): expected one of {', '.join(known)}")
    if max_memory is not None and not (isinstance(max_memory, int | float) and max_memory >= 1):
        raise PatchingError(f"patch(max_memory={max_memory!r}): expected a number of bytes")
    highest = max(int(task.pairs.answers.max()), int(task.pairs.foils.max()) if task.pairs.foils.numel() else 0)
    if highest >= model.d_vocab:
        raise PatchingError(
            f"patch: answer or foil {highest} is outside the vocabulary of {model.d_vocab} of {model.name}; was the "
            "task made with another tokenizer?"
        )


def _refuse_hooks(model: HookedModel) -> None:
    """Replay calls parts of the model on packed tokens; hooks of the caller's expect whole runs."""
    hooked = [name for name, part in model.module.named_modules() if part._forward_hooks or part._forward_pre_hooks]
    if hooked:
        raise Disagreement(f"there are hooks of your own on {', '.join(hooked[:3])}{', …' * (len(hooked) > 3)}")


def _explain(model: HookedModel, found: Disagreement, insist: bool) -> None:
    message = f"patch: {model.name} cannot be replayed: {found}"
    if insist:
        raise PatchingError(f"{message}; use method='forward'")
    warnings.warn(f"{message}; every cell is a full forward pass instead", FallbackWarning, stacklevel=3)


def _check_changed(swept: Swept, pairs: Pairs, grid: Grid, denoising: bool) -> None:
    base = swept.corrupted if denoising else swept.clean
    measured = ~np.isnan(swept.raw)
    if not measured.any():
        raise PatchingError("patch: no cell could be measured; no pair has any of these positions")
    if (np.where(measured, swept.raw, base) == base).all():
        first, last = int(pairs.first_difference.min()), int(pairs.positions["END"].max())
        raise PatchingError(
            f"patch: nothing changed in any of {len(grid.cells) * len(grid.columns)} cells. Clean and corrupted first "
            f"differ at position {first} and the answer is read at {last}; positions outside have no effect"
        )


def _result(swept: Swept, grid: Grid, model: HookedModel, task: Task, facts: dict[str, str]) -> EffectResult:
    labels = [column.label for column in grid.columns]
    mixed = any(isinstance(label, str) for label in labels)
    every = {
        "site": list(grid.sites),
        "layer": list(grid.layers),
        "head": list(grid.heads),
        "position": [str(label) for label in labels] if mixed else labels,
    }
    coords: dict[str, object] = {dim: every[dim] for dim in grid.over}
    if "position" in grid.over:
        coords["token"] = ("position", _tokens(model, task.pairs, grid))
    whole = {"site": grid.sites[0], "position": str(labels[0])}
    place = "" if "position" in grid.over or labels == [ALL] else f" at {labels[0]}"
    title = f"patching {', '.join(grid.sites[:4])}{', …' * (len(grid.sites) > 4)}{place} · {task.name} · {model.name}"
    return EffectResult.from_arrays(
        swept.raw.squeeze(tuple(i for i, dim in enumerate(DIMENSIONS) if dim not in grid.over)),
        swept.clean,
        swept.corrupted,
        dims=grid.over,
        coords=coords,
        clusters=task.clusters,
        attrs={
            "title": title,
            **{dim: name for dim, name in whole.items() if dim not in grid.over},
            **facts,
            **model.provenance,
            **task.provenance,
            **_versions(),
        },
    )


def _tokens(model: HookedModel, pairs: Pairs, grid: Grid) -> list[str]:
    show = str if model.tokenizer is None else lambda token: model.to_str_tokens([token])[0]
    return position_tokens(pairs, grid.columns, show)


def _versions() -> dict[str, str]:
    """What a result was made with."""
    packages = {name: version(name) for name in ("mechkit-interp", "torch", "transformers")}
    return {
        **{f"{name.removesuffix('-interp')}_version": found for name, found in packages.items()},
        "python_version": platform.python_version(),
    }
