import pytest
import task_tokenizers
import torch

from mechkit.errors import MissingTokenizerError, TaskError
from mechkit.tasks.tokens import encoder, find_tokenizer, ordinary_tokens, shown


class Bare:
    """A model without a tokenizer."""

    tokenizer = None
    d_vocab = 12


class WithTokenizer:
    def __init__(self, tokenizer, d_vocab: int) -> None:
        self.tokenizer, self.d_vocab = tokenizer, d_vocab


def test_a_tokenizer_is_found_in_a_model_or_is_itself() -> None:
    tokenizer = task_tokenizers.make()
    assert find_tokenizer(tokenizer) is tokenizer
    assert find_tokenizer(WithTokenizer(tokenizer, 10)) is tokenizer
    assert find_tokenizer(Bare()) is None
    assert find_tokenizer(torch.nn.Linear(1, 1)) is None
    with pytest.raises(MissingTokenizerError, match="here: Bare has no tokenizer"):
        encoder(Bare(), where="here")


def test_prompts_begin_as_the_tokenizer_does_by_itself_unless_told() -> None:
    plain, adding = task_tokenizers.make(), task_tokenizers.make(adds_bos=True)
    assert encoder(plain, where="").prefix == ()
    assert encoder(adding, where="").prefix == (0,)
    assert encoder(adding, bos=False, where="").prefix == ()
    one = encoder(plain, bos=True, where="")
    assert one.prompts([" Mary"]) == [(0, *one.encode([" Mary"])[0])]
    # with special tokens off, the tokenizer must not add its own
    assert encoder(adding, where="").prompts([" Mary"])[0].count(0) == 1


def test_bos_needs_such_a_token() -> None:
    tokenizer = task_tokenizers.build(["<s>", "<unk>", "a"], r"\w")
    tokenizer.bos_token = None
    with pytest.raises(TaskError, match="bos=True"):
        encoder(tokenizer, bos=True, where="ioi")


def test_a_continuation_is_the_one_token_that_a_word_adds() -> None:
    tokenizer = task_tokenizers.make("two_digits")
    one = encoder(tokenizer, where="")
    mary = tokenizer.convert_tokens_to_ids(" Mary")
    assert one.continuations("to", [" Mary", " Mary and", " Unheard"]) == [mary, None, None]
    # 174 is " 17" "4" here, and 1743 " 17" "43": the digit joins what stands before it
    assert one.continuations("the year 174", ["3"]) == [None]
    assert one.continuations("the year 17", ["43"]) == [tokenizer.convert_tokens_to_ids("43")]
    assert not one.covers(" the unheard")
    assert one.covers(" the year")
    assert one.encode([]) == []


def test_ordinary_tokens_leave_out_special_added_and_missing_ones() -> None:
    tokenizer = task_tokenizers.build(["<s>", "<unk>", "a", "b", "c"], r"\w")
    tokenizer.add_tokens(["added"])
    assert ordinary_tokens(tokenizer, where="") == (2, 3, 4)
    # a model may know fewer ids than its tokenizer
    assert ordinary_tokens(WithTokenizer(tokenizer, 4), where="") == (2, 3)
    assert ordinary_tokens(Bare(), where="") == tuple(range(12))
    assert ordinary_tokens(5, where="") == (0, 1, 2, 3, 4)
    with pytest.raises(TaskError, match="neither a tokenizer nor d_vocab"):
        ordinary_tokens(object(), where="induction")


def test_tokens_are_shown_as_text_or_as_ids() -> None:
    assert shown(None, [3, 4]) == "3 4"
    tokenizer = task_tokenizers.make()
    ids = encoder(tokenizer, where="").encode(["The war"])[0]
    assert "war" in shown(tokenizer, ids)
