import pytest
import task_tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mechkit.errors import DroppedPairsWarning, TaskError
from mechkit.tasks import Task, from_tokens, greater_than, induction, ioi
from mechkit.tasks.splitting import split_by_words

TOKENIZER = task_tokenizers.make()
MAKERS = {
    "ioi": lambda n: ioi(TOKENIZER, n),
    "years": lambda n: greater_than(TOKENIZER, n),
    "induction": lambda n: induction(64, n),
}
FRACTIONS = st.floats(0.1, 0.9)


def words_of(task: Task) -> set[str]:
    return {word for used in task.pairs.words for word in used}


def given_task(words: list[tuple[str, ...]], templates: list[str] | None = None) -> Task:
    size = len(words)
    return from_tokens(
        [[i, 1] for i in range(size)],
        [[i, 2] for i in range(size)],
        [3] * size,
        [4] * size,
        templates=templates,
        words=words,
    )


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("fraction", [0.25, 0.5])
def test_by_template_no_frame_is_shared_not_even_later(maker: str, fraction: float) -> None:
    task = MAKERS[maker](80)
    first, second = task.split(fraction, by="template", seed=3)
    assert len(first) + len(second) == 80
    assert len(first) == pytest.approx(80 * fraction, abs=5)
    ours, theirs = set(first.pairs.templates), set(second.pairs.templates)
    assert ours.isdisjoint(theirs)
    assert set(first.redraw(5, 60).pairs.templates) <= ours
    assert set(second.redraw(5, 60).pairs.templates).isdisjoint(ours)


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("fraction", [0.4, 0.5])
def test_by_words_no_word_is_shared_not_even_later(maker: str, fraction: float) -> None:
    task = MAKERS[maker](60)
    first, second = task.split(fraction, by="words", seed=1)
    assert (len(first), len(second)) == (round(60 * fraction), 60 - round(60 * fraction))
    assert words_of(first).isdisjoint(words_of(second))
    assert (words_of(first) | words_of(first.redraw(7, 50))).isdisjoint(
        words_of(second) | words_of(second.redraw(8, 50))
    )


@given(FRACTIONS, st.integers(0, 5), st.sampled_from(sorted(MAKERS)))
@settings(max_examples=20, deadline=None)
def test_by_pair_no_prompt_is_shared_not_even_later(fraction: float, seed: int, maker: str) -> None:
    task = MAKERS[maker](30)
    first, second = task.split(fraction, by="pair", seed=seed)
    assert set(first.pairs.clean) | set(second.pairs.clean) == set(task.pairs.clean)
    assert len(first) + len(second) == 30
    assert len(first) == pytest.approx(30 * fraction, abs=0.51)
    # the same seed would draw the same prompts for both parts, did they not remember what is theirs
    ours = set(first.pairs.clean) | set(first.redraw(9, 40).pairs.clean)
    theirs = set(second.pairs.clean) | set(second.redraw(9, 40).pairs.clean)
    assert ours.isdisjoint(theirs)


def test_parts_of_parts_stay_disjoint() -> None:
    first, second = ioi(TOKENIZER, 60).split(0.5, by="pair")
    one, other = first.split(0.5, by="template")
    left, right = one.split(0.5, by="pair", seed=4)
    drawn = [set(part.redraw(2, 20).pairs.clean) for part in (left, right, other, second)]
    assert sum(map(len, drawn)) == len(set.union(*drawn))
    assert (
        left.part
        == "first of split(0.5, by='pair', seed=0) > first of split(0.5, by='template', seed=0) > first of split(0.5, by='pair', seed=4)"
    )


def test_equal_prompts_go_to_the_same_part() -> None:
    task = from_tokens([[1, 2]] * 3 + [[5, 6]], [[1, 3], [1, 4], [1, 5], [5, 7]], [8] * 4, [9] * 4)
    first, second = task.split(0.5, seed=0)
    assert {len(first), len(second)} == {1, 3}


def test_splits_repeat_with_their_seed() -> None:
    task = ioi(TOKENIZER, 40)
    for by in ("pair", "template", "words"):
        assert task.split(by=by, seed=1)[0].pairs.clean == task.split(by=by, seed=1)[0].pairs.clean
        assert task.split(by=by, seed=1)[0].pairs.clean != task.split(by=by, seed=2)[0].pairs.clean


def test_given_pairs_in_groups_lose_nothing() -> None:
    words = [(f"a{group}", f"b{group}{member}") for group in range(4) for member in range(5)]
    first, second = given_task(words).split(0.5, by="words")
    assert len(first) == len(second) == 10
    assert words_of(first).isdisjoint(words_of(second))


def test_given_pairs_that_fit_neither_part_are_dropped_and_counted() -> None:
    # a ring: every word is in two pairs, so any cut loses pairs
    ring = [(str(number), str((number + 1) % 12)) for number in range(12)]
    with pytest.warns(DroppedPairsWarning, match="its words lie in both parts"):
        first, second = given_task(ring).split(0.5, by="words")
    assert words_of(first).isdisjoint(words_of(second))
    assert len(first) >= 2 and len(second) >= 2
    assert first.dropped == {"its words lie in both parts": 12 - len(first) - len(second)}


def test_splits_that_cannot_be_made_say_what_would() -> None:
    star = [("hub", str(number)) for number in range(6)]
    with pytest.raises(TaskError, match="no deal of 7 words leaves a whole pair on both sides"):
        given_task(star).split(by="words")
    with pytest.raises(TaskError, match="pair 1 has no words"):
        given_task([("a",), ()]).split(by="words")
    with pytest.raises(TaskError, match="all 2 pairs have the template ''"):
        given_task([("a",), ("b",)]).split(by="template")
    with pytest.raises(TaskError, match="at least two"):
        ioi(TOKENIZER, 1).split(by="pair")
    with pytest.raises(TaskError, match="at least two"):
        ioi(TOKENIZER, 1).split(by="words")
    few = task_tokenizers.make(without=tuple(f" {name}" for name in __import__("mechkit").tasks.words.NAMES[3:]))
    with pytest.raises(TaskError, match="3 words for name, and each part needs 2"):
        ioi(few, 4).split(by="words")


def test_given_pairs_split_by_their_templates() -> None:
    first, second = given_task([("w",)] * 6, list("aabbcc")).split(1 / 3, by="template")
    assert (len(first), len(second)) == (2, 4)


def test_reference_logits_travel_with_their_pairs() -> None:
    task = given_task([("a",), ("b",), ("c",), ("d",)])
    task = Task("t", task.pairs.with_reference(torch.arange(4.0)[:, None]), task.metric)
    for part in task.split():
        assert part.pairs.reference.flatten().tolist() == [float(prompt[0]) for prompt in part.pairs.clean]


def test_the_pure_function_needs_words() -> None:
    with pytest.raises(TaskError, match="no words"):
        split_by_words(given_task([(), ()]).pairs, None, 0.5, 0, 0)
