import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mechkit.errors import TaskError
from mechkit.tasks import Pairs, concatenate
from mechkit.tasks.pairs import pad_rows


def example() -> Pairs:
    return Pairs(
        clean=((1, 2, 3), (4, 5, 6, 7), (1, 1)),
        corrupted=((1, 9, 3), (4, 5, 6, 8), (2, 1)),
        answers=pad_rows([[10], [11, 12], [13]]),
        foils=pad_rows([[20], [21], [22]]),
        positions={"S": torch.tensor([1, 3, 0])},
        templates=("a", "b", "a"),
        words=(("x",), ("y",), ("z",)),
        reference=torch.arange(9.0).reshape(3, 3),
    )


def same(one: Pairs, other: Pairs) -> bool:
    plain = ("clean", "corrupted", "templates", "words")
    return (
        all(getattr(one, name) == getattr(other, name) for name in plain)
        and torch.equal(one.answers, other.answers)
        and torch.equal(one.foils, other.foils)
        and set(one.positions) == set(other.positions)
        and all(torch.equal(one.positions[name], other.positions[name]) for name in one.positions)
        and (one.reference is None) == (other.reference is None)
        and (one.reference is None or torch.equal(one.reference, other.reference))
    )


Raw = tuple[list[tuple[int, ...]], list[tuple[int, ...]], list[list[int]], list[list[int]]]


def build(raw: Raw) -> Pairs:
    clean, corrupted, answers, foils = raw
    return Pairs(tuple(clean), tuple(corrupted), pad_rows(answers), pad_rows(foils))


@st.composite
def raw_pairs(draw: st.DrawFn) -> Raw:
    size = draw(st.integers(1, 6))
    clean, corrupted = [], []
    for _ in range(size):
        prompt = draw(st.lists(st.integers(0, 30), min_size=1, max_size=7))
        change = draw(st.integers(0, len(prompt) - 1))
        other = list(prompt)
        other[change] += 1
        clean.append(tuple(prompt))
        corrupted.append(tuple(other))
    answers = [draw(st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True)) for _ in range(size)]
    foils = [draw(st.lists(st.integers(10, 19), min_size=1, max_size=3, unique=True)) for _ in range(size)]
    return clean, corrupted, answers, foils


def test_end_is_the_last_token_unless_given() -> None:
    pairs = example()
    assert pairs.positions["END"].tolist() == [2, 3, 1]
    assert pairs.lengths.tolist() == [3, 4, 2]
    given_end = Pairs(((1, 2),), ((1, 3),), torch.tensor([[5]]), torch.tensor([[6]]), {"END": torch.tensor([0])})
    assert given_end.positions["END"].tolist() == [0]


def test_first_difference_by_hand() -> None:
    assert example().first_difference.tolist() == [1, 3, 0]


@given(raw_pairs())
def test_first_difference_is_where_a_common_prefix_ends(raw: Raw) -> None:
    pairs = build(raw)
    for one, where in zip(pairs, pairs.first_difference.tolist(), strict=True):
        assert one.clean[0][:where] == one.corrupted[0][:where]
        assert one.clean[0][where] != one.corrupted[0][where]


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        ([2, 0], [2, 0]),
        (1, [1]),
        (-1, [2]),
        (slice(1, None), [1, 2]),
        (torch.tensor([0, 0]), [0, 0]),
        (torch.tensor([True, False, True]), [0, 2]),
        (np.array([1]), [1]),
        ([False, True, False], [1]),
    ],
)
def test_every_kind_of_index_takes_whole_rows(index: object, rows: list[int]) -> None:
    taken = example()[index]
    whole = example()
    assert taken.clean == tuple(whole.clean[row] for row in rows)
    assert taken.corrupted == tuple(whole.corrupted[row] for row in rows)
    assert torch.equal(taken.answers, whole.answers[rows])
    assert torch.equal(taken.positions["S"], whole.positions["S"][rows])
    assert taken.templates == tuple(whole.templates[row] for row in rows)
    assert torch.equal(taken.reference, whole.reference[rows])


@given(raw_pairs().filter(lambda raw: len(raw[0]) > 1), st.data())
def test_concatenation_undoes_a_cut(raw: Raw, data: st.DataObject) -> None:
    pairs = build(raw)
    cut = data.draw(st.integers(1, len(pairs) - 1))
    assert same(pairs[:cut] + pairs[cut:], pairs[list(range(len(pairs)))])
    assert same(concatenate(list(pairs)), pairs)


def test_concatenation_pads_answers_of_different_width() -> None:
    left = Pairs(((1,),), ((2,),), torch.tensor([[5, 6]]), torch.tensor([[7]]))
    right = Pairs(((3,),), ((4,),), torch.tensor([[8]]), torch.zeros(1, 0, dtype=torch.long))
    both = left + right
    assert both.answers.tolist() == [[5, 6], [8, -1]]
    assert both.foils.tolist() == [[7], [-1]]


def test_concatenation_refuses_what_does_not_fit() -> None:
    pairs = example()
    other = Pairs(((1,),), ((2,),), torch.tensor([[5]]), torch.tensor([[7]]))
    with pytest.raises(TaskError, match="part 1"):
        concatenate([pairs, other])
    bare = Pairs(pairs.clean, pairs.corrupted, pairs.answers, pairs.foils, pairs.positions)
    with pytest.raises(TaskError, match="with_reference after joining"):
        concatenate([pairs, bare])
    with pytest.raises(TaskError, match="at least one"):
        concatenate([])


def test_with_reference_carries_detached_logits() -> None:
    logits = torch.zeros(3, 5, requires_grad=True)
    assert not example().with_reference(logits).reference.requires_grad


@pytest.mark.parametrize(
    ("clean", "corrupted", "answers", "foils", "message"),
    [
        ((), (), [[1]], [[2]], "got none"),
        (((1, 2),), ((1,),), [[1]], [[2]], "clean has 2 tokens, corrupted 1"),
        (((1, 2),), ((1, 2),), [[1]], [[2]], "identical"),
        (((),), ((),), [[1]], [[2]], "empty"),
        (((1, -2),), ((1, 2),), [[1]], [[2]], "token -2"),
        (((1, 2),), ((1, 3), (1, 4)), [[1]], [[2]], "corrupted: 2 rows for 1"),
        (((1, 2),), ((1, 3),), [[-1]], [[2]], "no answer"),
        (((1, 2),), ((1, 3),), [[-5]], [[2]], "-1 pads"),
        (((1, 2),), ((1, 3),), [[4, 5]], [[6, 5]], "also in foils"),
    ],
)
def test_what_is_no_pair_is_refused(clean, corrupted, answers, foils, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        Pairs(clean, corrupted, torch.tensor(answers), torch.tensor(foils))


def test_positions_out_of_range_are_refused() -> None:
    for where in (3, -1):
        with pytest.raises(TaskError, match=r"positions\['S'\], pair 0"):
            Pairs(((1, 2, 3),), ((1, 2, 4),), torch.tensor([[1]]), torch.tensor([[2]]), {"S": torch.tensor([where])})


def test_bad_indices_are_refused() -> None:
    pairs = example()
    for index in ([3], torch.tensor([-4]), 7):
        with pytest.raises(TaskError, match="3 pairs"):
            pairs[index]
    with pytest.raises(TaskError, match="selects none"):
        pairs[3:]
    with pytest.raises(TaskError, match="selects none"):
        pairs[[]]
    with pytest.raises(TaskError, match="float64"):
        pairs[np.array([0.5])]
    with pytest.raises(TaskError, match="3 pairs"):
        pairs[torch.tensor([True])]
