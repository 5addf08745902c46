"""Running a sweep: by replay, and the slow, obvious way that replay must equal.

Replay: prompts are taken in blocks whose records fit the memory allowed. In each block both runs are recorded; every
column's pairs are grouped by what they touch and where they end (a lane); the lanes' cells are cut to at most
`tokens_per_pass` tokens and packed into passes. What cannot change — positions before clean and corrupted first
differ, or after the answer — takes the base run's value without being computed.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, pairwise

import numpy as np
import psutil
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..errors import PatchingError
from ..models import HookedModel
from ..models.injection import Injector, entry_layer, needed
from ..models.inputs import pad
from ..models.replay import Lane, Record, Replayer
from ..tasks.metrics import Metric
from ..tasks.pairs import Pairs
from .grid import PAD, Cell, Column, Grid

TOKENS_PER_PASS = 2048
"""More does not help on a CPU; an accelerator takes eight times as many."""

AGREEMENT = {torch.float64: 1e-8, torch.float32: 1e-4}
"""How far replay's logits may be from the model's own, as a share of the largest; half precision is allowed 0.1."""

LOGITS_AT_ONCE = 2**24
"""Where a metric needs the whole vocabulary: the unembedding is large, so it is read for many cells at once."""


@dataclass(frozen=True)
class Swept:
    """Metrics of a sweep: raw (site, layer, head, position, example), NaN where nothing was measured."""

    raw: Float[np.ndarray, "site layer head position example"]
    clean: Float[np.ndarray, "example"]
    corrupted: Float[np.ndarray, "example"]


@dataclass(frozen=True)
class Work:
    """A lane and the cells that it carries, with the positions that they touch."""

    lane: Lane
    column: int
    touched: Int[Tensor, "k"]
    cells: tuple[Cell, ...]

    @property
    def tokens(self) -> int:
        """Tokens of one layer when every cell has entered."""
        return len(self.cells) * len(self.lane.prompts) * self.lane.width


def default_memory(device: torch.device) -> int:
    """A quarter of what is free, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 4
    return psutil.virtual_memory().available // 4


class Disagreement(Exception):
    """This model cannot be replayed; the message says why."""


class ReplaySweep:
    """One sweep over the pairs, from recorded runs."""

    def __init__(self, model: HookedModel, pairs: Pairs, metric: Metric, grid: Grid, denoising: bool, memory: int):
        self.model, self.family = model, model.family
        self.pairs, self.metric, self.grid, self.denoising = pairs, metric, grid, denoising
        self.keep_base, self.keep_source = needed([cell.name for cell in grid.cells])
        self.replayer = Replayer(self.family, int(pairs.lengths.max()))
        self.tokens_per_pass, self.pairs_per_block = self._within(memory)
        self.logits_at_once = min(LOGITS_AT_ONCE, memory // 8 // model.family.unembedding.weight.element_size())
        self.raw = np.full((*grid.shape, len(pairs)), np.nan)
        self.clean, self.corrupted = np.full(len(pairs), np.nan), np.full(len(pairs), np.nan)

    def _within(self, memory: int) -> tuple[int, int]:
        """Tokens per pass and pairs per block; the records and one pass take half of the memory each."""
        family = self.family
        size = self.model.family.unembedding.weight.element_size()
        attention = family.d_head * (family.n_heads + 2 * family.n_kv_heads)
        longest = int(self.pairs.lengths.max())
        # a working token: copies of the residual stream, of the MLP's inside, of q, k, v, z, and its attention scores
        working = size * (10 * family.d_model + 4 * family.d_mlp + 4 * attention + 4 * family.n_heads * longest)
        most = TOKENS_PER_PASS * (1 if self.model.device.type == "cpu" else 8)
        tokens = min(most, max(64, memory // 2 // working))
        kept = len(self.keep_base) + len(self.keep_source)
        per_position = family.n_layers * ((4 + kept) * family.d_model + 4 * family.d_head * family.n_kv_heads)
        per_pair = size * longest * per_position
        return tokens, max(1, memory // 2 // per_pair)

    def run(self, progress: bool) -> Swept:
        """Every block in turn. Raises Disagreement where a record is not what the model computes."""
        blocks = torch.arange(len(self.pairs)).split(self.pairs_per_block)
        cells = len(self.grid.cells) * len(self.grid.columns) * len(self.pairs)
        with torch.no_grad(), tqdm(total=cells, desc="patching", unit="run", disable=not progress) as bar:
            for rows in blocks:
                self._block(rows, bar)
        return Swept(self.raw, self.clean, self.corrupted)

    def _block(self, rows: Tensor, bar: tqdm) -> None:
        pairs = self.pairs[rows]
        lanes = list(self._whole_lanes(pairs))
        sides = {"clean": pairs.clean, "corrupted": pairs.corrupted}
        base_name, source_name = ("corrupted", "clean") if self.denoising else ("clean", "corrupted")
        records = {
            name: self.replayer.record(self._tokens(sides[name]), lanes, keep)
            for name, keep in ((base_name, self.keep_base), (source_name, self.keep_source))
        }
        finals = {name: self._final(record, pairs) for name, record in records.items()}
        self._check(finals[base_name], sides[base_name], pairs)
        if self.metric.needs_reference and pairs.reference is None:
            pairs = pairs.with_reference(self.family.logits(finals["clean"]))
        outcome = {name: self._measure(final[None], pairs)[0] for name, final in finals.items()}
        self.clean[rows.numpy()], self.corrupted[rows.numpy()] = outcome["clean"], outcome["corrupted"]
        injector = Injector(self.replayer, records[base_name], records[source_name])
        works = [work for c, column in enumerate(self.grid.columns) for work in self._works(c, column, rows, pairs)]
        self._fill_unchanged(rows, outcome[base_name], pairs, bar)
        chosen: dict[tuple[int, ...], Pairs] = {}
        for batch in _passes(works, self.tokens_per_pass):
            entries = [_entries(work, injector, self.family.n_layers) for work in batch]
            answers = self.replayer.replay(injector.base, [work.lane for work in batch], entries)
            for work, answer in zip(batch, answers, strict=True):
                here = tuple(work.lane.prompts.tolist())
                if here not in chosen:
                    chosen[here] = pairs[work.lane.prompts]
                measured = self._measure(answer, chosen[here])
                where = rows[work.lane.prompts.cpu()].numpy()
                for cell, values in zip(work.cells, measured, strict=True):
                    self.raw[(*cell.index, work.column, where)] = values
                bar.update(len(work.cells) * len(where))

    def _check(self, finals: Float[Tensor, "n d_model"], prompts: Sequence[Sequence[int]], pairs: Pairs) -> None:
        """Recorded logits against the model's own, once for each length of prompt and state of the module."""
        state = _state_of(self.model.module)
        ends = pairs.positions["END"].tolist()
        for row, prompt in enumerate(prompts):
            known = (state, len(prompt), ends[row])
            if known in self.model.replay_checked:
                continue
            own = self.model.run([prompt], logits=ends[row]).logits
            assert own is not None
            again = self.family.logits(finals[row])
            if not bool(own.isfinite().all()):
                raise PatchingError(
                    f"patch: {self.model.name} gives NaN or infinite logits on pair {row}; check its weights"
                )
            gap = float((own[0] - again).abs().max() / own.abs().max())
            if gap > AGREEMENT.get(self.model.dtype, 0.1):
                raise Disagreement(
                    f"its blocks do something that the {self.family.name} adapter does not know; the relative "
                    f"difference from the logits of a full forward pass is {gap:.1e}"
                )
            self.model.replay_checked.add(known)

    def _tokens(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        return pad(list(prompts), self.family.d_vocab, self.family.n_context)[0].to(self.model.device)

    def _final(self, record: Record, pairs: Pairs) -> Tensor:
        return record.residual[-1][torch.arange(len(pairs)), pairs.positions["END"]]

    def _measure(self, answers: Float[Tensor, "cells n d_model"], pairs: Pairs) -> Float[np.ndarray, "cells n"]:
        """The metric of every cell; only the vocabulary entries that it looks at are computed."""
        columns = self.metric.columns(pairs)
        if columns is None:
            some = max(1, self.logits_at_once // (len(pairs) * self.family.d_vocab))
            found = [self.metric(one, pairs) for part in answers.split(some) for one in self.family.logits(part)]
        else:
            logits = self.family.logits_at(answers, columns.clamp(min=0).to(answers.device))
            found = [self.metric.from_columns(one, pairs) for one in logits]
        return torch.stack(found).cpu().double().numpy()

    # -- lanes -----------------------------------------------------------------------------------------------------

    def _span(self, length: int, end: int) -> int:
        """Where recomputing may stop: after the answer, unless later tokens are seen by earlier ones."""
        return end + 1 if self.family.causal else length

    def _whole_lanes(self, pairs: Pairs) -> Iterator[Lane]:
        spans = zip(pairs.lengths.tolist(), pairs.positions["END"].tolist(), strict=True)
        for (stop, end), prompts in _grouped([(self._span(length, end), end) for length, end in spans]):
            yield Lane(prompts.to(self.model.device), 0, stop, end)

    def _touched(self, column: Column, pairs: Pairs, rows: Tensor) -> list[tuple[int, ...]]:
        """For each pair, the patched positions at which anything can change."""
        first, end = pairs.first_difference.tolist(), pairs.positions["END"].tolist()
        causal = self.family.causal
        return [
            tuple(sorted({at for at in where if at != PAD and (not causal or first[i] <= at <= end[i])}))
            for i, where in enumerate(column.where[rows].tolist())
        ]

    def _works(self, number: int, column: Column, rows: Tensor, pairs: Pairs) -> Iterator[Work]:
        lengths, ends = pairs.lengths.tolist(), pairs.positions["END"].tolist()
        touched = self._touched(column, pairs, rows)
        keys = [(at, self._span(lengths[i], ends[i]), ends[i]) for i, at in enumerate(touched)]
        n_layers = self.family.n_layers
        cells = sorted(self.grid.cells, key=lambda cell: (entry_layer(cell.name, cell.layer, n_layers), cell.site))
        for (at, stop, end), prompts in _grouped(keys):
            if not at:
                continue
            start = at[0] if self.family.causal else 0
            for some in prompts.split(max(1, self.tokens_per_pass // (stop - start))):
                lane = Lane(some.to(self.model.device), start, stop, end)
                each = max(1, self.tokens_per_pass // (len(some) * lane.width))
                for part in _evenly(cells, math.ceil(len(cells) / each)):
                    yield Work(lane, number, torch.tensor(at, device=self.model.device), tuple(part))

    def _fill_unchanged(self, rows: Tensor, base: np.ndarray, pairs: Pairs, bar: tqdm) -> None:
        """Cells whose patch cannot reach the answer keep the base run's value."""
        for number, column in enumerate(self.grid.columns):
            for i, touched in enumerate(self._touched(column, pairs, rows)):
                if touched:
                    continue
                bar.update(len(self.grid.cells))
                if bool((column.where[rows[i]] != PAD).any()):
                    for cell in self.grid.cells:
                        self.raw[(*cell.index, number, int(rows[i]))] = base[i]


def _entries(work: Work, injector: Injector, n_layers: int) -> dict[int, Callable[[], Tensor]]:
    """Layer -> the states of the work's cells that enter there, in the order of the cells."""

    def states(cells: Sequence[Cell]) -> Tensor:
        made = []
        for (name, layer, whole), group in groupby(cells, key=lambda cell: (cell.name, cell.layer, cell.head is None)):
            heads = None if whole else [cell.head for cell in group if cell.head is not None]
            made.append(injector.inject(name, layer, heads, work.lane, work.touched))
        return torch.cat(made)

    by_layer = groupby(work.cells, key=lambda cell: entry_layer(cell.name, cell.layer, n_layers))
    return {layer: partial(states, tuple(group)) for layer, group in by_layer}


def _passes(works: Sequence[Work], most: int) -> Iterator[list[Work]]:
    """Works packed into passes of at most `most` tokens, one work at least."""
    batch: list[Work] = []
    for work in works:
        if batch and sum(one.tokens for one in batch) + work.tokens > most:
            yield batch
            batch = []
        batch.append(work)
    if batch:
        yield batch


def _state_of(module: nn.Module) -> int:
    """Changes whenever a weight, a submodule or a submodule's forward is exchanged, or a weight is changed in place."""
    parts = [(id(part), id(vars(part).get("forward"))) for part in module.modules()]
    weights = [(weight.data_ptr(), -1 if weight.is_inference() else weight._version) for weight in module.parameters()]
    return hash((*parts, *weights))


def _grouped(keys: Sequence[tuple]) -> list[tuple[tuple, Tensor]]:
    """Each distinct key and the rows that have it."""
    rows: dict[tuple, list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    return [(key, torch.tensor(listed)) for key, listed in rows.items()]


def _evenly(cells: Sequence[Cell], parts: int) -> list[Sequence[Cell]]:
    """Cut into parts whose sizes differ by one at most."""
    bounds = np.linspace(0, len(cells), parts + 1).round().astype(int)
    return [cells[a:b] for a, b in pairwise(bounds)]
