"""Pairs of prompts, token by token aligned: one that shows a behaviour (clean) and one that does not (corrupted).

The two prompts of a pair have equal length, so that an activation of one fits into the other. Different pairs
may differ in length. Padding of answers and foils is -1; positions count from 0 at the first token.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from ..errors import TaskError

END = "END"
PAD = -1

Tokens = tuple[int, ...]
Index = int | slice | Sequence[int] | Shaped[Tensor, " index"] | Shaped[np.ndarray, " index"]


@dataclass(frozen=True, eq=False, repr=False)
class Pairs:
    """Aligned pairs with what is right, what is wrong, and where.

    `clean[i]` and `corrupted[i]` are token ids of equal length. `answers` and `foils` hold the right and the wrong
    next tokens at `positions["END"]` (the last token unless given). `templates` and `words` label each pair with the
    sentence frame and the filled-in words it was made from, for splitting and for clusters. `reference` is the
    logits at END of the clean run, which the KL divergence compares with.

    Raises TaskError when a pair is of unequal length, identical, out of range, or has no answer.
    """

    clean: tuple[Tokens, ...]
    corrupted: tuple[Tokens, ...]
    answers: Int[Tensor, "pairs n_answers"]
    foils: Int[Tensor, "pairs n_foils"]
    positions: Mapping[str, Int[Tensor, " pairs"]] = field(default_factory=dict)
    templates: tuple[str, ...] = ()
    words: tuple[tuple[str, ...], ...] = ()
    reference: Float[Tensor, "pairs d_vocab"] | None = None

    def __post_init__(self) -> None:
        size = len(self.clean)
        if size == 0:
            raise TaskError("Pairs: got none; give at least one clean and one corrupted prompt")
        _fill_defaults(self, size)
        _check_sizes(self, size)
        for index in range(size):
            _check_prompts(index, self.clean[index], self.corrupted[index])
        _check_answers(self.answers, self.foils)
        lengths = self.lengths
        for name, where in self.positions.items():
            bad = ((where < 0) | (where >= lengths)).nonzero().flatten().tolist()
            if bad:
                raise TaskError(
                    f"Pairs.positions[{name!r}], pair {bad[0]}: {int(where[bad[0]])} is outside the prompt of "
                    f"{int(lengths[bad[0]])} tokens; positions count from 0"
                )

    def __len__(self) -> int:
        return len(self.clean)

    def __iter__(self) -> Iterator["Pairs"]:
        """Yield each pair as a `Pairs` of length one."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: Index) -> "Pairs":
        """Select pairs by number, slice, list of numbers, or tensor or array (numbers, or a mask of all pairs)."""
        rows = _rows(index, len(self))
        keep = torch.tensor(rows, dtype=torch.long)
        return replace(
            self,
            clean=tuple(self.clean[row] for row in rows),
            corrupted=tuple(self.corrupted[row] for row in rows),
            answers=self.answers[keep],
            foils=self.foils[keep],
            positions={name: where[keep] for name, where in self.positions.items()},
            templates=tuple(self.templates[row] for row in rows),
            words=tuple(self.words[row] for row in rows),
            reference=None if self.reference is None else self.reference[keep.to(self.reference.device)],
        )

    def __add__(self, other: "Pairs") -> "Pairs":
        return concatenate([self, other])

    def __repr__(self) -> str:
        lengths = self.lengths
        spread = (
            f"{int(lengths.min())}" if bool((lengths == lengths[0]).all()) else f"{lengths.min()} to {lengths.max()}"
        )
        return f"Pairs({len(self)} pairs of {spread} tokens, positions {', '.join(self.positions)})"

    @property
    def lengths(self) -> Int[Tensor, " pairs"]:
        """Tokens per prompt; clean and corrupted agree."""
        return torch.tensor([len(prompt) for prompt in self.clean])

    @property
    def first_difference(self) -> Int[Tensor, " pairs"]:
        """The first position at which clean and corrupted differ; before it, no activation of the two can differ."""
        return torch.tensor(
            [
                next(place for place, (a, b) in enumerate(zip(clean, corrupted, strict=True)) if a != b)
                for clean, corrupted in zip(self.clean, self.corrupted, strict=True)
            ]
        )

    def with_reference(self, logits: Float[Tensor, "pairs d_vocab"]) -> "Pairs":
        """Carry the clean run's logits at END, one row per pair, as the reference of the KL divergence."""
        return replace(self, reference=logits.detach())


def concatenate(parts: Sequence[Pairs]) -> Pairs:
    """Join pairs in order.

    Raises TaskError when the parts name different positions, or only some carry reference logits.
    """
    if not parts:
        raise TaskError("concatenate: got no pairs; give at least one Pairs")
    names = list(parts[0].positions)
    for number, part in enumerate(parts):
        if set(part.positions) != set(names):
            raise TaskError(
                f"concatenate: part 0 names the positions {sorted(names)}, part {number} {sorted(part.positions)}; "
                "name the same positions in every part"
            )
    references = [part.reference for part in parts if part.reference is not None]
    if references and (len(references) < len(parts) or len({row.shape[1] for row in references}) > 1):
        raise TaskError(
            "concatenate: the parts' reference logits are missing in some or differ in vocabulary; "
            "call with_reference after joining"
        )
    return Pairs(
        clean=tuple(prompt for part in parts for prompt in part.clean),
        corrupted=tuple(prompt for part in parts for prompt in part.corrupted),
        answers=pad_rows([row for part in parts for row in part.answers.tolist()]),
        foils=pad_rows([row for part in parts for row in part.foils.tolist()]),
        positions={name: torch.cat([part.positions[name] for part in parts]) for name in names},
        templates=tuple(label for part in parts for label in part.templates),
        words=tuple(label for part in parts for label in part.words),
        reference=torch.cat(references) if references else None,
    )


def pad_rows(rows: Sequence[Sequence[int]]) -> Int[Tensor, "pairs width"]:
    """Make one tensor of token lists of different lengths; short rows end in -1."""
    kept = [[token for token in row if token != PAD] for row in rows]
    width = max((len(row) for row in kept), default=0)
    padded = [row + [PAD] * (width - len(row)) for row in kept]
    return torch.tensor(padded, dtype=torch.long).reshape(len(rows), width)


def _fill_defaults(pairs: Pairs, size: int) -> None:
    positions = dict(pairs.positions)
    positions.setdefault(END, pairs.lengths - 1)
    object.__setattr__(pairs, "positions", positions)
    object.__setattr__(pairs, "templates", pairs.templates or ("",) * size)
    object.__setattr__(pairs, "words", pairs.words or ((),) * size)


def _check_sizes(pairs: Pairs, size: int) -> None:
    sizes = {
        "corrupted": len(pairs.corrupted),
        "answers": len(pairs.answers),
        "foils": len(pairs.foils),
        "templates": len(pairs.templates),
        "words": len(pairs.words),
        **{f"positions[{name!r}]": len(where) for name, where in pairs.positions.items()},
    }
    if pairs.reference is not None:
        sizes["reference"] = len(pairs.reference)
    for name, found in sizes.items():
        if found != size:
            raise TaskError(f"Pairs.{name}: {found} rows for {size} clean prompts; give one row per pair")


def _check_prompts(index: int, clean: Tokens, corrupted: Tokens) -> None:
    for side, prompt in (("clean", clean), ("corrupted", corrupted)):
        for token in prompt:
            if isinstance(token, bool) or not isinstance(token, int) or token < 0:
                raise TaskError(f"Pairs.{side}[{index}]: token {token!r} is no id; ids are whole numbers from 0 up")
    if not clean:
        raise TaskError(f"Pairs.clean[{index}]: the prompt is empty; give at least one token")
    if len(clean) != len(corrupted):
        raise TaskError(
            f"Pairs, pair {index}: clean has {len(clean)} tokens, corrupted {len(corrupted)}; "
            "activations can only be exchanged between prompts of equal length"
        )
    if clean == corrupted:
        raise TaskError(f"Pairs, pair {index}: clean and corrupted are identical; there is nothing to patch")


def _check_answers(answers: Tensor, foils: Tensor) -> None:
    if min(int(answers.min()) if answers.numel() else 0, int(foils.min()) if foils.numel() else 0) < PAD:
        raise TaskError("Pairs.answers, Pairs.foils: ids are whole numbers from 0 up, and -1 pads; got a smaller one")
    empty = (answers == PAD).all(dim=1).nonzero().flatten().tolist()
    if empty:
        raise TaskError(f"Pairs.answers, pair {empty[0]}: no answer; give at least one token id per pair")
    both = (answers[:, :, None] == foils[:, None, :]) & (answers != PAD)[:, :, None]
    shared = both.flatten(1).any(dim=1).nonzero().flatten().tolist()
    if shared:
        raise TaskError(
            f"Pairs, pair {shared[0]}: a token of answers {answers[shared[0]].tolist()} is also in foils "
            f"{foils[shared[0]].tolist()}; they must be disjoint"
        )


def _rows(index: Index, size: int) -> list[int]:
    values = np.arange(size)
    chosen = np.asarray(index.cpu()) if isinstance(index, Tensor) else index
    if not isinstance(chosen, slice):
        chosen = np.atleast_1d(np.asarray(chosen, dtype=None if np.size(chosen) else np.int64))
        if chosen.dtype != bool and not np.issubdtype(chosen.dtype, np.integer):
            raise TaskError(f"Pairs[...]: an index of type {chosen.dtype}; use whole numbers, a slice or a mask")
    try:
        rows = values[chosen].tolist()
    except IndexError as error:
        raise TaskError(f"Pairs[...]: {error}; there are {size} pairs, numbered 0 to {size - 1}") from error
    if not rows:
        raise TaskError(f"Pairs[...]: the index selects none of {size} pairs; select at least one")
    return rows
