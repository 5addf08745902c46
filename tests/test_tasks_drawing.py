from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechkit.errors import TaskError
from mechkit.tasks.drawing import Draft, Membership, Recipe, draw, pick, rounds, to_pairs


@dataclass(frozen=True, kw_only=True, repr=False)
class Numbers(Recipe):
    """Prompts (word, number) with numbers below `limit`; every third draft fails."""

    limit: int = 40

    @property
    def needed(self) -> Mapping[str, int]:
        return {"word": 1}

    def batches(self, generator: np.random.Generator) -> Iterator[list[Draft | str]]:
        while True:
            yield [self._one(generator) if place % 3 else "third" for place in range(6)]

    def _one(self, generator: np.random.Generator) -> Draft:
        (word,) = pick(generator, self.pools["word"])
        number = int(generator.integers(self.limit))
        prompt = (int(word), number) + (7,) * (number % 2)
        return Draft(prompt, (99, *prompt[1:]), (1,), (2,), template=str(number % 2), words=(word,))


RECIPE = Numbers(templates=("0", "1"), pools={"word": ("1", "2", "3")}, left_out={"a word": 5})


def test_drawing_gives_n_distinct_pairs_and_counts_what_was_left_out() -> None:
    pairs, dropped = draw(RECIPE, 30, seed=1)
    assert len(set(pairs.clean)) == 30
    assert dropped["a word"] == 5
    assert dropped["third"] >= 15


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 5))
def test_the_first_pairs_of_a_seed_do_not_depend_on_n(one: int, other: int, seed: int) -> None:
    few, many = sorted([one, other])
    assert draw(RECIPE, many, seed)[0].clean[:few] == draw(RECIPE, few, seed)[0].clean


def test_seeds_differ_and_repeat() -> None:
    assert draw(RECIPE, 10, 0)[0].clean == draw(RECIPE, 10, 0)[0].clean
    assert draw(RECIPE, 10, 0)[0].clean != draw(RECIPE, 10, 1)[0].clean


def test_asking_for_more_than_there_is_ends_with_counts() -> None:
    assert len(draw(RECIPE, 120, 0)[0]) == 120
    with pytest.raises(TaskError, match=r"121 distinct pairs were asked for, 120 found .*× third.*fewer"):
        draw(RECIPE, 121, 0)


@pytest.mark.parametrize(("n", "seed"), [(0, 0), (-3, 0), (5, -1), (True, 0)])
def test_counts_and_seeds_are_checked(n: int, seed: int) -> None:
    with pytest.raises(TaskError, match="whole number of at least"):
        draw(RECIPE, n, seed)


def test_a_common_length_is_kept_and_the_rest_counted() -> None:
    odd = Numbers(templates=("0", "1"), pools={"word": ("1",)}, limit=3)
    # numbers 0 and 2 give two tokens, 1 gives three
    fixed = odd.with_common_length(0)
    assert fixed.length == 2
    pairs, dropped = draw(fixed, 2, 0)
    assert pairs.lengths.tolist() == [2, 2]
    with pytest.raises(TaskError, match="not of the commonest length"):
        draw(fixed, 3, 0)
    assert "not of the commonest length" in dropped or pairs.clean


@pytest.mark.parametrize(
    ("draft", "fault"),
    [
        (Draft((1, 2), (1, 3), (4,), (5,)), None),
        (Draft((1, 2), (1, 3), (4,), ()), None),
        (Draft((1, 2), (1,), (4,), (5,)), "length"),
        (Draft((1, 2), (1, 2), (4,), (5,)), "identical"),
        (Draft((1, 2), (1, 3), (4, 5), (5,)), "foil"),
        (Draft((), (), (4,), (5,)), "empty"),
    ],
)
def test_faults_of_drafts(draft: Draft, fault: str | None) -> None:
    found = draft.fault()
    assert (found is None) if fault is None else (found is not None and fault in found)


def test_drafts_become_pairs_with_padding_and_end() -> None:
    pairs = to_pairs(
        [Draft((1, 2), (1, 3), (4, 5), (6,), {"S": 0}), Draft((7,), (8,), (9,), (1, 2), {"S": 0, "END": 0})]
    )
    assert pairs.answers.tolist() == [[4, 5], [9, -1]]
    assert pairs.foils.tolist() == [[6, -1], [1, 2]]
    assert pairs.positions["END"].tolist() == [1, 0]
    assert pairs.positions["S"].tolist() == [0, 0]


def test_rounds_deal_each_item_equally_often() -> None:
    dealt = list(islice(rounds(np.random.default_rng(0), "abcd"), 40))
    for start in range(0, 40, 4):
        assert sorted(dealt[start : start + 4]) == ["a", "b", "c", "d"]
    assert dealt[:4] != dealt[4:8] or dealt[4:8] != dealt[8:12]


@given(st.lists(st.tuples(st.integers(0, 50)), min_size=2, unique=True), st.floats(0.05, 0.95), st.integers(0, 9))
def test_of_two_complementary_parts_exactly_one_holds_a_prompt(
    prompts: list[tuple[int]], fraction: float, salt: int
) -> None:
    own, other = frozenset(prompts[::2]), frozenset(prompts[1::2])
    first = Membership(own, other, 0.0, fraction, salt)
    second = Membership(other, own, fraction, 1.0, salt)
    for prompt in [*prompts, *((number,) for number in range(100, 200))]:
        assert first.holds(prompt) != second.holds(prompt)
    assert all(first.holds(prompt) for prompt in own)


def test_unseen_prompts_fall_to_the_parts_by_the_fraction() -> None:
    part = Membership(frozenset(), frozenset(), 0.0, 0.3, 1)
    share = np.mean([part.holds((number, number + 1)) for number in range(4000)])
    assert share == pytest.approx(0.3, abs=0.03)
