import inspect

import pytest
import task_tokenizers

from mechkit.errors import TaskError
from mechkit.tasks.frames import choose_frames, split_words
from mechkit.tasks.tokens import encoder

KNOWN = ("{A} {B} {S} one", "{A} {B} {S} two", "{A} {B} {S} three")
SLOTS = ("A", "B", "S")


def test_all_some_numbered_and_ones_own() -> None:
    assert choose_frames(None, KNOWN, SLOTS, where="") == KNOWN
    assert choose_frames(2, KNOWN, SLOTS, where="") == KNOWN[:2]
    assert choose_frames([2, 0, 2], KNOWN, SLOTS, where="") == (KNOWN[2], KNOWN[0])
    own = "See {B} and {A}: {S} took a {object} for"
    assert choose_frames([own], KNOWN, SLOTS, where="") == (own,)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (0, "1 to 3"),
        (4, "1 to 3"),
        ([3], "numbered 0 to 2"),
        ([], "give a count"),
        (["{A} and {B} to"], "hold each of"),
        (["{A} {A} {B} {S} to"], "hold each of"),
        (["{A} {B} {S} {weather} to"], "hold each of"),
        (["{A} {B} {S} to "], "ends in a space"),
        (["{A} {B} {S to"], "does not parse"),
    ],
)
def test_frames_that_cannot_be_used(chosen: object, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        choose_frames(chosen, KNOWN, SLOTS, where="ioi")


def test_a_single_sentence_is_no_list() -> None:
    with pytest.raises(TaskError, match="give a count"):
        inspect.unwrap(choose_frames)("{A} {B} {S} to", KNOWN, SLOTS, where="ioi")


def test_words_are_sorted_by_their_tokens() -> None:
    tokenizer = task_tokenizers.make(without=(" Mary",))
    kept, out = split_words(encoder(tokenizer, where=""), ["John", "Mary", "John Paul", "Paul"])
    assert kept == {name: tokenizer.convert_tokens_to_ids(f" {name}") for name in ("John", "Paul")}
    assert out == {"Mary": "not a single token", "John Paul": "not a single token"}


def test_two_names_of_one_token_are_told_apart_from_one() -> None:
    from tokenizers import normalizers

    tokenizer = task_tokenizers.build(["<s>", "<unk>", "and", " mary"], task_tokenizers.PIECES["digits"])
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    kept, out = split_words(encoder(tokenizer, where=""), ["Mary", "MARY"])
    assert list(kept) == ["Mary"]
    assert out == {"MARY": "has the same token as another"}
