"""The slow, obvious sweep: one whole forward pass for every cell. It is what replay must equal, and its stand-in."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm

from ..models import Edit, HookedModel
from ..models.inputs import batches_by_length
from ..tasks.behaviour import measure_sides
from ..tasks.metrics import Metric
from ..tasks.pairs import Pairs
from .grid import PAD, Column, Grid
from .sweeping import TOKENS_PER_PASS, Swept


def sweep_by_forward(
    model: HookedModel, pairs: Pairs, metric: Metric, grid: Grid, denoising: bool, progress: bool
) -> Swept:
    """Edit, run, measure; in batches of pairs that are patched at equally many positions."""
    clean, corrupted = measure_sides(model, pairs, metric, where="patch")
    if metric.needs_reference and pairs.reference is None:
        pairs = pairs.with_reference(model.last_logits(pairs.clean, pairs.positions["END"]))
    raw = np.full((*grid.shape, len(pairs)), np.nan)
    sites = sorted({cell.site.whole for cell in grid.cells}, key=str)
    total = len(pairs) * len(grid.cells) * len(grid.columns)
    with tqdm(total=total, desc="patching (full forwards)", unit="run", disable=not progress) as bar:
        for number, column in enumerate(grid.columns):
            for rows, positions in _batches(column, pairs):
                some = pairs[rows]
                base, source = (some.corrupted, some.clean) if denoising else (some.clean, some.corrupted)
                run = model.run(source, read=sites, positions=positions)
                for cell in grid.cells:
                    edit = Edit(cell.site, run[cell.site], positions=positions)
                    logits = model.run(base, edits=[edit], logits=some.positions["END"][:, None]).logits
                    assert logits is not None
                    raw[(*cell.index, number, rows)] = metric(logits[:, 0], some).cpu().double().numpy()
                bar.update(len(rows) * len(grid.cells))
            bar.update(int((column.where == PAD).all(dim=1).sum()) * len(grid.cells))
    return Swept(raw, clean, corrupted)


def _batches(column: Column, pairs: Pairs) -> Iterator[tuple[list[int], Int[Tensor, "rows k"]]]:
    """Rows of pairs, and the positions at which each is patched; pairs without any are left out."""
    by_count: dict[int, list[int]] = {}
    for row, count in enumerate((column.where != PAD).sum(dim=1).tolist()):
        by_count.setdefault(count, []).append(row)
    by_count.pop(0, None)
    for rows in by_count.values():
        for batch in batches_by_length([len(pairs.clean[row]) for row in rows], TOKENS_PER_PASS):
            chosen = [rows[i] for i in batch]
            where = column.where[chosen]
            yield chosen, where[where != PAD].reshape(len(chosen), -1)
