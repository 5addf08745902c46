import inspect
import re

import pytest
import task_tokenizers
from task_tokenizers import text

from mechkit.errors import MissingTokenizerError, TaskError
from mechkit.tasks import Task, ioi, words

TOKENIZER = task_tokenizers.make()
NAMES = set(words.NAMES)


def names_in(sentence: str) -> list[str]:
    return [word for word in re.findall(r"[A-Za-z]+", sentence) if word in NAMES]


def sentences(task: Task) -> list[tuple[str, str]]:
    pairs = task.pairs
    return [
        (text(TOKENIZER, clean), text(TOKENIZER, corrupted))
        for clean, corrupted in zip(pairs.clean, pairs.corrupted, strict=True)
    ]


@pytest.mark.parametrize("corruption", ["swap", "abc", "random_s2"])
def test_names_of_clean_and_corrupted(corruption: str) -> None:
    task = ioi(TOKENIZER, 60, corruption=corruption)
    for one, (clean, corrupted) in zip(task.pairs, sentences(task), strict=True):
        first, second, third = names_in(clean)
        assert third in (first, second) and first != second
        (io,) = {first, second} - {third}
        assert text(TOKENIZER, one.answers[0].tolist()) == f" {io}"
        assert text(TOKENIZER, one.foils[0].tolist()) == f" {third}"
        a, b, c = names_in(corrupted)
        if corruption == "abc":
            assert len({a, b, c, first, second}) == 5
        else:
            assert (a, b) == (first, second)
            assert c == io if corruption == "swap" else c not in (first, second)
        # nothing but names differs
        assert re.sub("|".join({first, second}), "X", clean) == re.sub("|".join({a, b, c}), "X", corrupted)


def test_named_positions_stand_on_the_names() -> None:
    task = ioi(TOKENIZER, 40)
    for one, (clean, _) in zip(task.pairs, sentences(task), strict=True):
        token = {name: text(TOKENIZER, [one.clean[0][int(where)]]) for name, where in one.positions.items()}
        first, second, third = names_in(clean)
        assert token["S1"] == token["S2"] == f" {third}"
        assert token["IO"] == f" {second if first == third else first}"
        assert token["END"] == " to"
        assert token["S1+1"] == " and" if first == third else token["S1+1"] != " and"
        assert int(one.positions["S1"]) + 1 == int(one.positions["S1+1"])
        assert int(one.positions["S1"]) < int(one.positions["S2"])


def test_orders() -> None:
    for order, first in (("ABBA", "IO"), ("BABA", "S1")):
        positions = ioi(TOKENIZER, 20, order=order).pairs.positions
        other = {"IO": "S1", "S1": "IO"}[first]
        assert bool((positions[first] < positions[other]).all())
    both = ioi(TOKENIZER, 40).pairs
    first = (both.positions["IO"] < both.positions["S1"]).tolist()
    # 20 frames: each comes up once in 20 pairs, in either order half of the time, and in 40 pairs once in each order
    assert len(set(both.templates[:20])) == 20 and sum(first[:20]) == 10
    assert len(set(zip(both.templates, first, strict=True))) == 40


def test_the_swapped_name_is_the_only_difference() -> None:
    pairs = ioi(TOKENIZER, 20, corruption="swap").pairs
    assert pairs.first_difference.tolist() == pairs.positions["S2"].tolist()
    for one in pairs:
        assert sum(a != b for a, b in zip(one.clean[0], one.corrupted[0], strict=True)) == 1


def test_a_thousand_distinct_pairs_balanced_over_templates() -> None:
    task = ioi(TOKENIZER, 1000)
    assert len(set(task.pairs.clean)) == 1000
    counts = [task.pairs.templates.count(frame) for frame in set(task.pairs.templates)]
    assert len(counts) == len(words.IOI_FRAMES)
    assert max(counts) - min(counts) <= 2


def test_prompts_read_as_their_template() -> None:
    task = ioi(TOKENIZER, 30)
    for template, used, (clean, _) in zip(task.pairs.templates, task.pairs.words, sentences(task), strict=True):
        pattern = re.escape(template)
        for slot in ("A", "B", "S", "place", "object"):
            pattern = pattern.replace(re.escape("{" + slot + "}"), f"(?P<{slot}>[A-Za-z]+)")
        found = re.fullmatch(pattern, clean)
        assert found is not None
        assert set(found.groups()) == set(used)


def test_one_template_and_order_give_a_heatmap_of_equal_columns() -> None:
    task = ioi(TOKENIZER, 30, templates=1, order="ABBA", same_length=True)
    columns = list(zip(*task.pairs.clean, strict=True))
    changing = {place for place, column in enumerate(columns) if len(set(column)) > 1}
    slots = {int(where[0]) for name, where in task.pairs.positions.items() if name in ("IO", "S1", "S2")}
    # all but the names, the place and the object is the same word in every prompt
    assert slots <= changing
    assert len(changing) == 5


def test_same_length_keeps_one_length() -> None:
    task = ioi(TOKENIZER, 50, same_length=True)
    assert len(set(task.pairs.lengths.tolist())) == 1
    assert len(set(ioi(TOKENIZER, 50).pairs.lengths.tolist())) > 1
    assert len(set(task.redraw(9).pairs.lengths.tolist()) | set(task.pairs.lengths.tolist())) == 1


def test_templates_of_ones_own_with_and_without_slots() -> None:
    own = "Look, {A} and {B} had lunch, and {S} handed it to"
    tokenizer = task_tokenizers.make(extra=("Look, had lunch",))
    task = ioi(tokenizer, 12, templates=[own])
    assert set(task.pairs.templates) == {own}
    assert all(len(used) == 2 for used in task.pairs.words)


def test_names_of_several_tokens_are_left_out_and_counted() -> None:
    missing = tuple(f" {name}" for name in words.NAMES[:-6])
    tokenizer = task_tokenizers.make(without=(*missing, " candle", "Yesterday"))
    task = ioi(tokenizer, 40)
    assert task.dropped["name left out: not a single token"] == len(words.NAMES) - 6
    assert task.dropped["place or object left out: unknown word"] == 1
    assert task.dropped["template left out: unknown word, or its last word joins the answer"] == 1
    used = {name for row in task.pairs.words for name in row if name in NAMES}
    assert used <= set(words.NAMES[-6:])
    assert not any("candle" in row for row in task.pairs.words)


def test_too_few_names_or_no_template_are_errors_that_count() -> None:
    tokenizer = task_tokenizers.make(without=tuple(f" {name}" for name in words.NAMES[:-4]))
    assert len(ioi(tokenizer, 8, corruption="swap")) == 8
    with pytest.raises(TaskError, match=r"4 of \d+ names.*needs 5"):
        ioi(tokenizer, 8, corruption="abc")
    with pytest.raises(TaskError, match="none of 1 templates"):
        ioi(TOKENIZER, 8, templates=["Zounds {A} {B} {S} to"])
    with pytest.raises(TaskError, match="none of 20 templates"):
        ioi(task_tokenizers.make(without=(" to",)), 8)


def test_prompts_begin_with_the_token_that_the_tokenizer_adds() -> None:
    plain = ioi(TOKENIZER, 5)
    adding = ioi(task_tokenizers.make(adds_bos=True), 5)
    assert all(
        prompt[0] == 0 and prompt[1:] == bare
        for prompt, bare in zip(adding.pairs.clean, plain.pairs.clean, strict=True)
    )
    assert adding.pairs.positions["S2"].tolist() == (plain.pairs.positions["S2"] + 1).tolist()
    assert ioi(task_tokenizers.make(adds_bos=True), 5, bos=False).pairs.clean == plain.pairs.clean


def test_arguments_are_checked() -> None:
    unchecked = inspect.unwrap(ioi)
    with pytest.raises(TaskError, match=r"order='ABAB'.*ABBA"):
        unchecked(TOKENIZER, order="ABAB")
    with pytest.raises(TaskError, match=r"corruption='zero'.*abc"):
        unchecked(TOKENIZER, corruption="zero")
    with pytest.raises(MissingTokenizerError, match="ioi"):
        ioi(object())
