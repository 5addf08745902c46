import inspect
import re

import pytest
import task_tokenizers
from task_tokenizers import text

from mechkit.errors import TaskError
from mechkit.tasks import greater_than, words

KINDS = {"digits": "units", "three_digits": "units", "two_digits": "two_digits"}


@pytest.mark.parametrize(("kind", "variant"), KINDS.items())
def test_answers_are_the_endings_above_the_start_year(kind: str, variant: str) -> None:
    tokenizer = task_tokenizers.make(kind)
    task = greater_than(tokenizer, 40)
    assert variant.replace("_", " ") in task.description
    width = {"units": 1, "two_digits": 2}[variant]
    for one in task.pairs:
        clean, corrupted = text(tokenizer, one.clean[0]), text(tokenizer, one.corrupted[0])
        start, cut = re.findall(r"\d+", clean)
        assert len(start) == 4 and start.startswith(cut) and len(cut) == 4 - width
        assert re.findall(r"\d+", corrupted) == [cut + {1: "0", 2: "01"}[width], cut]
        assert re.sub(r"\d+", "", clean) == re.sub(r"\d+", "", corrupted)
        ending = start[-width:]
        answers = {text(tokenizer, [token]) for token in one.answers[0].tolist() if token >= 0}
        foils = {text(tokenizer, [token]) for token in one.foils[0].tolist() if token >= 0}
        everything = {f"{number:0{width}d}" for number in range(10**width)}
        assert answers == {number for number in everything if number > ending}
        assert foils == everything - answers
        assert len(answers) >= 1 and len(foils) >= 3


@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_continues_the_prompt(kind: str) -> None:
    tokenizer = task_tokenizers.make(kind)
    for one in greater_than(tokenizer, 10).pairs:
        answer = int(one.answers[0, 0])
        whole = text(tokenizer, one.clean[0]) + text(tokenizer, [answer])
        assert tokenizer(whole)["input_ids"] == [*one.clean[0], answer]


@pytest.mark.parametrize("kind", KINDS)
def test_positions(kind: str) -> None:
    tokenizer = task_tokenizers.make(kind)
    task = greater_than(tokenizer, 30)
    for one in task.pairs:
        token = {name: text(tokenizer, [one.clean[0][int(where)]]) for name, where in one.positions.items()}
        assert token["NOUN"] == f" {one.words[0][0]}"
        # the model stands at the end year where it stood in the start year before the ending
        assert token["XX1"] == token["END"]
        assert int(one.positions["XX1"]) + 1 == int(one.positions["YY"]) == int(one.first_difference)
    assert bool((task.pairs.positions["END"] == task.pairs.lengths - 1).all())


def test_a_thousand_distinct_pairs_over_all_templates() -> None:
    task = greater_than(task_tokenizers.make(), 1000)
    assert len(set(task.pairs.clean)) == 1000
    assert set(task.pairs.templates) == set(words.YEAR_FRAMES)
    assert task.metric.name == "probability_difference"


def test_a_variant_can_be_forced_only_where_years_split_that_way() -> None:
    tokenizer = task_tokenizers.make("two_digits")
    assert len(greater_than(tokenizer, 5, variant="two_digits")) == 5
    with pytest.raises(TaskError, match=r"split for units, but 'the year 1743' is .*leave variant out"):
        greater_than(tokenizer, 5, variant="units")
    with pytest.raises(TaskError, match="split for units or two_digits"):
        greater_than(task_tokenizers.make("years"), 5)
    with pytest.raises(TaskError, match="variant='ten'"):
        inspect.unwrap(greater_than)(tokenizer, variant="ten")


def test_years_that_are_one_token_are_dropped_and_counted() -> None:
    pattern = r" 1[1-4]\d\d|" + task_tokenizers.PIECES["two_digits"]
    pieces = sorted(set(task_tokenizers.make("two_digits").get_vocab()) - {"<s>", "<unk>"})
    years = [f" {year}" for year in range(1100, 1500)]
    tokenizer = task_tokenizers.build(["<s>", "<unk>", *pieces, *years], pattern)
    task = greater_than(tokenizer, 30)
    assert task.dropped["the year does not end in a token of its own"] > 5
    assert {used[1] for used in task.pairs.words} <= {"15", "16", "17"}


def test_templates_and_lengths() -> None:
    tokenizer = task_tokenizers.make()
    paper = greater_than(tokenizer, 10, templates=[0], same_length=True)
    assert set(paper.pairs.templates) == {"The {noun} lasted from the year {start} to the year {cut}"}
    assert len(set(paper.pairs.lengths.tolist())) == 1
    with pytest.raises(TaskError, match="must end in"):
        greater_than(tokenizer, 5, templates=["The {noun} from {start} to {cut} AD"])
    with pytest.raises(TaskError, match="no noun or no template"):
        greater_than(tokenizer, 5, templates=["Zounds {noun} {start} {cut}"])


def test_unknown_nouns_are_left_out_and_counted() -> None:
    task = greater_than(task_tokenizers.make(without=(" war", " trial", "Historians")), 20)
    assert task.dropped == {"noun left out: unknown word": 2, "template left out: unknown word": 1}
    assert not {"war", "trial"} & {used[0] for used in task.pairs.words}
