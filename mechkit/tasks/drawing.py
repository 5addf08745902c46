"""Drawing pairs from a recipe.

1. A recipe makes batches of drafts from a seeded generator: prompts in tokens, or the reason why one was left out.
2. A draft that does not line up, is of another length than asked for, or belongs to another part is left out and
   counted; one that was already drawn is passed over.
3. The first n that are left become `Pairs`.

Batches have a fixed size, so that the first pairs of a seed are the same whatever n is.
"""

import abc
import hashlib
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Self

import numpy as np
import torch

from ..errors import DroppedPairsWarning, TaskError
from .pairs import END, Pairs, pad_rows

BATCH = 64
PATIENCE = 2_000

LENGTHS_DIFFER = "clean and corrupted differ in length"
IDENTICAL = "clean and corrupted are identical"
ANSWER_IS_FOIL = "an answer is also a foil"
EMPTY = "the prompt is empty"
OTHER_LENGTH = "not of the commonest length"
OTHER_PART = "belongs to the other part of a split"


@dataclass(frozen=True)
class Draft:
    """One pair before it is checked. END is the last token unless `positions` says otherwise."""

    clean: tuple[int, ...]
    corrupted: tuple[int, ...]
    answers: tuple[int, ...]
    foils: tuple[int, ...]
    positions: Mapping[str, int] = field(default_factory=dict)
    template: str = ""
    words: tuple[str, ...] = ()

    def fault(self) -> str | None:
        """Why this cannot be a pair, or None."""
        if not self.clean or not self.corrupted:
            return EMPTY
        if len(self.clean) != len(self.corrupted):
            return LENGTHS_DIFFER
        if self.clean == self.corrupted:
            return IDENTICAL
        if set(self.answers) & set(self.foils):
            return ANSWER_IS_FOIL
        return None


@dataclass(frozen=True)
class Membership:
    """Which part of a split by pair a clean prompt belongs to: as it was dealt, else by a hash of its tokens."""

    own: frozenset[tuple[int, ...]]
    other: frozenset[tuple[int, ...]]
    low: float
    high: float
    salt: int

    def holds(self, clean: tuple[int, ...]) -> bool:
        """Whether the prompt belongs to this part; of two complementary parts, exactly one holds it."""
        if clean in self.own or clean in self.other:
            return clean in self.own
        digest = hashlib.blake2b(repr((self.salt, clean)).encode(), digest_size=8).digest()
        return self.low <= int.from_bytes(digest) / 2**64 < self.high


@dataclass(frozen=True, kw_only=True, repr=False)
class Recipe(abc.ABC):
    """How to make pairs: sentence frames, pools of words to fill in, and what a part of a split may use."""

    templates: tuple[str, ...]
    pools: Mapping[str, tuple[str, ...]]
    left_out: Mapping[str, int] = field(default_factory=dict)
    memberships: tuple[Membership, ...] = ()
    length: int | None = None

    @property
    @abc.abstractmethod
    def needed(self) -> Mapping[str, int]:
        """How many words of each pool one pair takes."""

    @abc.abstractmethod
    def batches(self, generator: np.random.Generator) -> Iterator[list[Draft | str]]:
        """Make drafts without end, `BATCH` at a time; a draft that failed is the reason why."""

    def with_common_length(self, seed: int) -> Self:
        """Fix the prompt length to the commonest of a sample; of equally common ones, the shortest."""
        batches = islice(self.batches(np.random.default_rng(seed)), 8)
        lengths = Counter(len(draft.clean) for batch in batches for draft in batch if isinstance(draft, Draft))
        return replace(self, length=min(lengths, key=lambda size: (-lengths[size], size)) if lengths else None)


def draw(recipe: Recipe, n: int, seed: int) -> tuple[Pairs, dict[str, int]]:
    """Draw n distinct pairs, and count what was left out on the way, by reason.

    Raises TaskError with the counts when n distinct pairs cannot be found.
    """
    check_whole("n", n, 1)
    check_whole("seed", seed, 0)
    kept: dict[tuple[int, ...], Draft] = {}
    dropped: Counter[str] = Counter(recipe.left_out)
    idle = 0
    for batch in recipe.batches(np.random.default_rng(seed)):
        for draft in batch:
            reason = _reason(recipe, draft)
            if reason is not None:
                dropped[reason] += 1
            elif isinstance(draft, Draft) and draft.clean not in kept:
                kept[draft.clean] = draft
                idle = -1
            idle += 1
            if len(kept) == n:
                return to_pairs(list(kept.values())), dict(dropped)
        if idle > PATIENCE:
            break
    raise TaskError(
        f"drawing pairs: {n} distinct pairs were asked for, {len(kept)} found (left out: {listed(dropped) or 'none'}); "
        f"ask for {'fewer' if kept else 'other'} pairs: n, templates, corruption, same_length, or another tokenizer"
    )


def to_pairs(drafts: Sequence[Draft]) -> Pairs:
    """Gather checked drafts that name the same positions."""
    names = list(dict.fromkeys([*drafts[0].positions, END]))
    where = [{END: len(draft.clean) - 1, **draft.positions} for draft in drafts]
    return Pairs(
        clean=tuple(draft.clean for draft in drafts),
        corrupted=tuple(draft.corrupted for draft in drafts),
        answers=pad_rows([draft.answers for draft in drafts]),
        foils=pad_rows([draft.foils for draft in drafts]),
        positions={name: torch.tensor([row[name] for row in where]) for name in names},
        templates=tuple(draft.template for draft in drafts),
        words=tuple(draft.words for draft in drafts),
    )


def rounds(generator: np.random.Generator, items: Sequence[str]) -> Iterator[str]:
    """Deal the items in shuffled rounds without end, so that each comes up equally often."""
    while True:
        for index in generator.permutation(len(items)):
            yield items[index]


def pick(generator: np.random.Generator, pool: Sequence[str], count: int = 1) -> list[str]:
    """Draw `count` different words."""
    return [pool[index] for index in generator.choice(len(pool), count, replace=False)]


def check_whole(name: str, value: object, least: int) -> None:
    """Raise TaskError unless the value is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise TaskError(f"{name}: expected a whole number of at least {least}, got {value!r}")


def listed(counts: Mapping[str, int]) -> str:
    """Counts by reason in one line."""
    return "; ".join(f"{count} × {reason}" for reason, count in counts.items())


def warn_dropped(where: str, counts: Mapping[str, int], total: int) -> None:
    """Warn that some of the pairs given were dropped, with the count for each reason."""
    message = f"{where}: {sum(counts.values())} of {total} pairs dropped ({listed(counts)})"
    warnings.warn(message, DroppedPairsWarning, stacklevel=4)


def _reason(recipe: Recipe, draft: Draft | str) -> str | None:
    """Why the draft is left out; None keeps it."""
    if isinstance(draft, str):
        return draft
    if recipe.length is not None and len(draft.clean) != recipe.length:
        return OTHER_LENGTH
    if not all(part.holds(draft.clean) for part in recipe.memberships):
        return OTHER_PART
    return draft.fault()
