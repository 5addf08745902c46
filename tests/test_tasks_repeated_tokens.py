import inspect

import pytest
import task_tokenizers
from hypothesis import given
from hypothesis import strategies as st

from mechkit.errors import TaskError
from mechkit.tasks import Pairs, induction


class Bare:
    tokenizer = None
    d_vocab = 40


def block_of(one: Pairs) -> int:
    return int(one.templates[0].split()[1])


@given(st.sampled_from(["exchange", "successor", "prefix"]), st.integers(0, 30))
def test_the_pattern_is_there_in_clean_and_broken_in_corrupted(corruption: str, seed: int) -> None:
    for one in induction(64, 6, seed, corruption=corruption, periods=(4, 9)).pairs:
        clean, corrupted, period = one.clean[0], one.corrupted[0], block_of(one)
        answer, foil = int(one.answers[0, 0]), int(one.foils[0, 0])
        a, b, end = (int(one.positions[name]) for name in ("A1", "B1", "END"))
        block = clean[:period]
        assert len(set(block)) == period
        # the repeat copies the block, in both prompts
        assert clean[period:] == corrupted[period:] == block[: len(clean) - period]
        assert end == len(clean) - 1 and clean[end] == clean[a] and b == a + 1 and clean[b] == answer
        if corruption == "prefix":
            assert clean[a] not in corrupted[:period]
        else:
            assert corrupted[a] == corrupted[end] and corrupted[b] == foil
        if corruption == "exchange":
            assert sorted(clean) == sorted(corrupted)
            assert clean[int(one.positions["D1"])] == foil and corrupted[int(one.positions["D1"])] == answer
        else:
            assert sum(x != y for x, y in zip(clean, corrupted, strict=True)) == 1
            assert "D1" not in one.positions
        # neither candidate stands in the repeat, where it would be a shorter way to the answer
        assert answer not in clean[period:] and foil not in clean[period:]


def test_periods_vary_within_their_bounds() -> None:
    pairs = induction(64, 100, periods=(5, 8)).pairs
    assert {block_of(one) for one in pairs} == {5, 6, 7, 8}
    assert all(period < length < 2 * period for period, length in ((block_of(one), len(one.clean[0])) for one in pairs))


def test_any_vocabulary_will_do() -> None:
    tokenizer = task_tokenizers.make()
    tokens = {token for prompt in induction(tokenizer, 200).pairs.clean for token in prompt}
    assert not tokens & {0, 1}
    assert max(tokens) < len(tokenizer)
    bare = induction(Bare(), 50, periods=(4, 12)).pairs
    assert max(token for prompt in bare.clean + bare.corrupted for token in prompt) < 40
    assert induction(40, 50, periods=(4, 12)).pairs.clean == bare.clean


def test_prompts_begin_with_the_token_that_the_tokenizer_adds() -> None:
    pairs = induction(task_tokenizers.make(adds_bos=True), 20).pairs
    assert all(prompt[0] == 0 for prompt in pairs.clean + pairs.corrupted)
    for one in pairs:
        assert one.clean[0][int(one.positions["B1"])] == int(one.answers[0, 0])
        assert one.clean[0][int(one.positions["A1"])] == one.clean[0][int(one.positions["END"])]


def test_a_thousand_distinct_independent_pairs() -> None:
    task = induction(64, 1000)
    assert len(set(task.pairs.clean)) == 1000
    assert task.clustered_by == "pair"
    assert len(set(task.clusters)) == 1000


def test_every_draft_is_a_pair_and_none_relies_on_the_first_position() -> None:
    # many models use the first position as a sink of attention
    for corruption in ("exchange", "successor", "prefix"):
        task = induction(64, 200, corruption=corruption, periods=(4, 5))
        assert task.dropped == {}
        assert int(task.pairs.positions["A1"].min()) == 1


def test_same_length() -> None:
    assert len(set(induction(64, 40, same_length=True).pairs.lengths.tolist())) == 1


def test_arguments_are_checked() -> None:
    with pytest.raises(TaskError, match=r"24 different tokens.*has 20"):
        induction(20, 4)
    with pytest.raises(TaskError, match="shortest of periods"):
        induction(64, 4, periods=(3, 9))
    with pytest.raises(TaskError, match="longest of periods"):
        induction(64, 4, periods=(9, 5))
    with pytest.raises(TaskError, match="bos=True needs a tokenizer"):
        induction(64, 4, bos=True)
    with pytest.raises(TaskError, match="neither a tokenizer nor d_vocab"):
        induction(object(), 4)
    with pytest.raises(TaskError, match="corruption='none'"):
        inspect.unwrap(induction)(64, 4, corruption="none")
