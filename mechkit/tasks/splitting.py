"""Splitting pairs into two parts that share no template, no word, or no prompt.

- by template: whole sentence frames are dealt to the parts, as near to the fraction as whole frames allow;
- by words: the words are dealt, and a pair belongs to a part when all of its words do. Where pairs can be drawn anew,
  each part is drawn from its own words, so that no size is lost. Given pairs are kept where they fit: parts are made of
  whole groups of pairs that share words where there are such groups, else of the best of many random deals;
- by pair: prompts are dealt, equal clean prompts together.

A part remembers what it may use, so that pairs drawn for it later stay disjoint from the other part, too.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from ..errors import TaskError
from .drawing import Membership, Recipe, draw
from .pairs import Pairs

By = Literal["pair", "template", "words"]

_DEALS = 200
_MIXED = "its words lie in both parts"


@dataclass(frozen=True)
class Part:
    """One side of a split: its pairs, how to draw more for it, and what was lost."""

    pairs: Pairs
    recipe: Recipe | None
    dropped: dict[str, int] = field(default_factory=dict)


def split_by_template(pairs: Pairs, recipe: Recipe | None, fraction: float, seed: int) -> tuple[Part, Part]:
    """Deal whole sentence frames; raises TaskError when the pairs come from fewer than two."""
    counts = Counter(pairs.templates)
    if len(counts) < 2:
        raise TaskError(
            f"split by template: all {len(pairs)} pairs have the template {pairs.templates[0]!r}; draw from several, "
            "label given pairs with templates=..., or split by words or pair"
        )
    labels = list(dict.fromkeys([*(recipe.templates if recipe else ()), *pairs.templates]))
    sides = _deal_labels(labels, counts, fraction * len(pairs), np.random.default_rng(seed))
    parts = []
    for own in sides:
        rows = [row for row, label in enumerate(pairs.templates) if label in own]
        inside = recipe and replace(recipe, templates=tuple(label for label in recipe.templates if label in own))
        parts.append(Part(pairs[rows], inside))
    return parts[0], parts[1]


def _deal_labels(
    labels: list[str], counts: Counter[str], target: float, generator: np.random.Generator
) -> tuple[list[str], list[str]]:
    """Of 20 shuffles, each cut where the first side comes nearest to the target, the nearest."""
    best: tuple[float, list[str], list[str]] | None = None
    for _ in range(20):
        order = [labels[index] for index in generator.permutation(len(labels))]
        reached = np.cumsum([counts[label] for label in order])
        for cut in range(1, len(order)):
            miss = abs(float(reached[cut - 1]) - target)
            if 0 < reached[cut - 1] < reached[-1] and (best is None or miss < best[0]):
                best = (miss, order[:cut], order[cut:])
    assert best is not None  # two labels have pairs, so some cut leaves pairs on both sides
    return best[1], best[2]


def split_by_pair(pairs: Pairs, recipe: Recipe | None, fraction: float, seed: int) -> tuple[Part, Part]:
    """Deal prompts; pairs with the same clean prompt stay together."""
    prompts = list(dict.fromkeys(pairs.clean))
    if len(prompts) < 2:
        raise TaskError(f"split by pair: {len(prompts)} distinct clean prompt; give at least two")
    order = np.random.default_rng(seed).permutation(len(prompts))
    cut = _first_size(fraction, len(prompts))
    sides = [frozenset(prompts[index] for index in dealt) for dealt in (order[:cut], order[cut:])]
    parts = []
    for own, other, low, high in ((sides[0], sides[1], 0.0, fraction), (sides[1], sides[0], fraction, 1.0)):
        rows = [row for row, prompt in enumerate(pairs.clean) if prompt in own]
        rule = Membership(own, other, low, high, seed)
        parts.append(Part(pairs[rows], recipe and replace(recipe, memberships=(*recipe.memberships, rule))))
    return parts[0], parts[1]


def split_by_words(
    pairs: Pairs, recipe: Recipe | None, fraction: float, seed: int, draw_seed: int
) -> tuple[Part, Part]:
    """Deal words. Drawn pairs are drawn anew from each part's words; given pairs that fit neither part are lost."""
    if recipe is None:
        return _split_given_by_words(pairs, fraction, seed)
    if len(pairs) < 2:
        raise TaskError("split by words: one pair cannot make two parts; draw at least two")
    generator = np.random.default_rng(seed)
    pools: tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]] = ({}, {})
    for slot, words in recipe.pools.items():
        least = recipe.needed[slot]
        if words != ("",) and len(words) < 2 * least:
            raise TaskError(
                f"split by words: {len(words)} words for {slot}, and each part needs {least}; split by template or pair"
            )
        order = generator.permutation(len(words))
        cut = min(max(round(fraction * len(words)), least), len(words) - least)
        pools[0][slot] = words if words == ("",) else tuple(words[index] for index in sorted(order[:cut]))
        pools[1][slot] = words if words == ("",) else tuple(words[index] for index in sorted(order[cut:]))
    first = _first_size(fraction, len(pairs))
    parts = []
    for pool, size in zip(pools, (first, len(pairs) - first), strict=True):
        inside = replace(recipe, pools=pool)
        drawn, dropped = draw(inside, size, draw_seed)
        parts.append(Part(drawn, inside, dropped))
    return parts[0], parts[1]


def _split_given_by_words(pairs: Pairs, fraction: float, seed: int) -> tuple[Part, Part]:
    if not all(pairs.words):
        raise TaskError(
            f"split by words: pair {[bool(words) for words in pairs.words].index(False)} has no words; name the words "
            "of every pair with words=..., or split by template or pair"
        )
    generator = np.random.default_rng(seed)
    deals = [_deal_groups(pairs.words, fraction, generator)]
    vocabulary = sorted({word for words in pairs.words for word in words})
    for _ in range(_DEALS):
        order = generator.permutation(len(vocabulary))
        deals.append({vocabulary[index] for index in order[: _first_size(fraction, len(vocabulary))]})
    rows = max((_rows_inside(pairs.words, own) for own in deals), key=lambda sides: _quality(sides, fraction))
    if not all(rows):
        raise TaskError(
            f"split by words: no deal of {len(vocabulary)} words leaves a whole pair on both sides, so closely do the "
            f"{len(pairs)} pairs share words; split by template or pair"
        )
    lost = len(pairs) - len(rows[0]) - len(rows[1])
    dropped = {_MIXED: lost} if lost else {}
    return Part(pairs[rows[0]], None, dropped), Part(pairs[rows[1]], None, dropped)


def _deal_groups(words: Sequence[tuple[str, ...]], fraction: float, generator: np.random.Generator) -> set[str]:
    """Words of whole groups of pairs that share words, dealt to the first part until the fraction is reached."""
    leader: dict[str, str] = {}

    def find(word: str) -> str:
        while leader.setdefault(word, word) != word:
            word = leader[word]
        return word

    for row in words:
        for word in row[1:]:
            leader[find(word)] = find(row[0])
    groups: defaultdict[str, set[str]] = defaultdict(set)
    sizes: Counter[str] = Counter()
    for row in words:
        groups[find(row[0])].update(row)
        sizes[find(row[0])] += 1
    # the largest first, or a big group that comes last spoils the balance
    names = sorted((list(groups)[index] for index in generator.permutation(len(groups))), key=lambda name: -sizes[name])
    own: set[str] = set()
    taken = 0
    for name in names:
        if taken + sizes[name] <= fraction * len(words) + 0.5:
            own |= groups[name]
            taken += sizes[name]
    return own


def _rows_inside(words: Sequence[tuple[str, ...]], own: set[str]) -> tuple[list[int], list[int]]:
    first = [row for row, used in enumerate(words) if own.issuperset(used)]
    second = [row for row, used in enumerate(words) if own.isdisjoint(used)]
    return first, second


def _quality(sides: tuple[list[int], list[int]], fraction: float) -> tuple[float, int]:
    """How near both parts come to the size they were asked for, then how many pairs are kept."""
    return min(len(sides[0]) / fraction, len(sides[1]) / (1 - fraction)), len(sides[0]) + len(sides[1])


def _first_size(fraction: float, size: int) -> int:
    return min(max(round(fraction * size), 1), size - 1)
