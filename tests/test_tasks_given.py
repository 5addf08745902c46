import warnings

import numpy as np
import pytest
import task_tokenizers
import torch

from mechkit.errors import DroppedPairsWarning, MissingTokenizerError, TaskError
from mechkit.tasks import from_tokens, metrics

TOKENIZER = task_tokenizers.make(extra=("Mary John Paul went home. Mary and",))


class Model:
    tokenizer = None
    d_vocab = 20


def token(piece: str) -> int:
    found = TOKENIZER.convert_tokens_to_ids(piece)
    assert found != TOKENIZER.unk_token_id
    return found


def test_ids_need_no_tokenizer() -> None:
    task = from_tokens([[1, 2, 3], [4, 5]], [[1, 9, 3], [4, 6]], [7, [8, 9]], [10, 11], positions={"S": [1, -1]})
    assert task.pairs.clean == ((1, 2, 3), (4, 5))
    assert task.pairs.answers.tolist() == [[7, -1], [8, 9]]
    assert task.pairs.positions["S"].tolist() == [1, 1]
    assert task.pairs.positions["END"].tolist() == [2, 1]
    assert task.metric is metrics.logit_difference
    assert task.dropped == {}


def test_tensors_and_arrays_are_ids() -> None:
    clean, corrupted = torch.tensor([[1, 2], [3, 4]]), np.array([[1, 3], [3, 5]])
    task = from_tokens(clean, list(corrupted), torch.tensor([5, 6]), [torch.tensor([7, 8]), torch.tensor([9])])
    assert task.pairs.clean == ((1, 2), (3, 4))
    assert task.pairs.corrupted == ((1, 3), (3, 5))
    assert task.pairs.answers.tolist() == [[5], [6]]
    assert task.pairs.foils.tolist() == [[7, 8], [9, -1]]


def test_without_foils_the_metric_is_the_cross_entropy() -> None:
    assert from_tokens([[1, 2]], [[1, 3]], [5]).metric is metrics.cross_entropy
    assert from_tokens([[1, 2], [1, 4]], [[1, 3], [1, 5]], [5, 6], [[7], []]).metric is metrics.cross_entropy


def test_text_is_encoded_and_characters_become_positions() -> None:
    clean = "When Mary and John went, John gave it to"
    task = from_tokens(
        [clean],
        ["When Mary and John went, Mary gave it to"],
        [" Mary"],
        [[" John", token(" Paul")]],
        model=TOKENIZER,
        positions={"S2": [(clean.rindex("John"), clean.rindex("John") + 4)], "END": [-1]},
        templates=["frame"],
        words=[["Mary", "John"]],
    )
    assert task.pairs.answers.tolist() == [[token(" Mary")]]
    assert task.pairs.foils.tolist() == [[token(" John"), token(" Paul")]]
    assert task.pairs.clean[0][int(task.pairs.positions["S2"][0])] == token(" John")
    assert task.pairs.positions["S2"].tolist() == task.pairs.first_difference.tolist()
    assert task.pairs.words == (("Mary", "John"),)
    assert task.tokenizer is TOKENIZER


def test_characters_are_found_behind_the_token_that_prompts_begin_with() -> None:
    tokenizer = task_tokenizers.make(adds_bos=True)
    task = from_tokens(["the war"], ["the trial"], [" war"], model=tokenizer, positions={"W": [(4, 7)]})
    assert task.pairs.clean[0][0] == 0
    assert task.pairs.positions["W"].tolist() == [task.pairs.lengths[0] - 1]


def test_what_does_not_fit_is_dropped_with_a_count_for_each_reason() -> None:
    rows = [
        (" Mary and", " John and", " Paul", " Luke"),
        (" Mary and", " John and", " Paul", " Luke"),
        (" Mary and", " John went and", " Paul", " Luke"),
        (" Mary and", " Mary and", " Paul", " Luke"),
        (" Mary and", " Carl and", " Paul Luke", " Luke"),
        (" Mary and", " Carl and", " Paul", " Luke Paul"),
        (" Mary and", " Carl and", " Paul", " Paul"),
        ("", " Carl", " Paul", " Luke"),
    ]
    with pytest.warns(DroppedPairsWarning, match="7 of 8 pairs dropped") as caught:
        task = from_tokens(*(list(column) for column in zip(*rows, strict=True)), model=TOKENIZER)
    assert len(task) == 1
    assert task.dropped == {
        "repeats an earlier pair": 1,
        "clean and corrupted differ in length": 1,
        "clean and corrupted are identical": 1,
        "the answer is not a single token": 1,
        "the foil is not a single token": 1,
        "an answer is also a foil": 1,
        "the prompt is empty": 1,
    }
    for reason in task.dropped:
        assert reason in str(caught[0].message)


def test_no_warning_when_nothing_is_dropped() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_tokens([[1, 2]], [[1, 3]], [5], [6])


def test_none_left_is_an_error_with_an_example_of_each_reason() -> None:
    with pytest.raises(TaskError) as caught:
        from_tokens(
            [" Mary and", " Mary and"], [" Carl and", " Carl went and"], ["Paul Carl", " Luke"], model=TOKENIZER
        )
    message = str(caught.value)
    assert "none of 2 pairs" in message
    assert "1 × the answer is not a single token (for example pair 0: 'Paul Carl'" in message
    assert "1 × clean and corrupted differ in length (for example pair 1: 2 and 3 tokens" in message


def test_a_forgotten_leading_space_is_named() -> None:
    with pytest.raises(TaskError, match="' Paul', with a leading space, is one"):
        from_tokens([" Mary and"], [" Carl and"], ["Paul"], model=task_tokenizers.make(without=("Paul",)))


def test_ids_outside_the_vocabulary_and_positions_outside_the_prompt_are_dropped() -> None:
    with pytest.warns(DroppedPairsWarning) as caught:
        task = from_tokens(
            [[1, 2], [1, 3], [1, 4]],
            [[2, 2], [2, 3], [2, 4]],
            [5, 20, 6],
            [6, 7, 8],
            model=Model(),
            positions={"S": [0, 0, 2]},
        )
    assert task.dropped == {"a token id is outside the vocabulary": 1, "a position is outside the prompt": 1}
    assert len(caught) == 1


def test_a_position_inside_a_token_is_dropped() -> None:
    with pytest.raises(TaskError, match=r"does not end where a token ends.*'Ma'"):
        from_tokens([" Mary and"], [" Carl and"], [" Paul"], model=TOKENIZER, positions={"S": [(1, 3)]})
    with pytest.raises(TaskError, match="of 9 characters"):
        from_tokens([" Mary and"], [" Carl and"], [" Paul"], model=TOKENIZER, positions={"S": [(1, 30)]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1]], [[2], [3]], [4]), "corrupted must be a list of 1"),
        (([], [], []), "no pairs were given"),
        (([[1]], [[2]], [[]]), "pair 0: no answer"),
        (([[1]], [[2]], [-3]), "pair 0: answer -3"),
        (([[-1]], [[2]], [3]), "pair 0: prompt -1"),
        ((" Mary", " John", " Paul"), "one text"),
    ],
)
def test_what_is_no_list_of_pairs_is_an_error(arguments: tuple, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        from_tokens(*arguments, model=TOKENIZER)


def test_text_needs_a_tokenizer() -> None:
    with pytest.raises(MissingTokenizerError, match="pair 0: the prompt is text"):
        from_tokens(["a"], ["b"], [1])
    with pytest.raises(MissingTokenizerError, match="the answer 'a' is text"):
        from_tokens([[1]], [[2]], ["a"], model=Model())
    with pytest.raises(TaskError, match="characters"):
        from_tokens([[1, 2]], [[2, 2]], [3], model=Model(), positions={"S": [(0, 1)]})
