import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mechkit.errors import MetricError
from mechkit.tasks import Metric, Pairs, metrics
from mechkit.tasks.pairs import pad_rows

D_VOCAB = 6


def pairs_with(answers: list[list[int]], foils: list[list[int]]) -> Pairs:
    size = len(answers)
    return Pairs(((1, 2),) * size, ((1, 3),) * size, pad_rows(answers), pad_rows(foils))


PAIRS = pairs_with([[0], [1, 2]], [[1], [3]])
# probabilities of row 0: 1/2, 1/4, 1/4, 0 …; of row 1: 0.1, 0.2, 0.3, 0.4, 0 …
PROBABILITIES = torch.tensor([[0.5, 0.25, 0.25, 1e-30, 1e-30, 1e-30], [0.1, 0.2, 0.3, 0.4, 1e-30, 1e-30]])
LOGITS = PROBABILITIES.log() + torch.tensor([[3.0], [-2.0]])


def test_logit_difference_by_hand() -> None:
    expected = [math.log(0.5 / 0.25), (math.log(0.2) + math.log(0.3)) / 2 - math.log(0.4)]
    assert metrics.logit_difference(LOGITS, PAIRS).tolist() == pytest.approx(expected, abs=1e-5)


def test_probability_difference_by_hand() -> None:
    assert metrics.probability_difference(LOGITS, PAIRS).tolist() == pytest.approx([0.25, 0.1], abs=1e-5)


def test_cross_entropy_by_hand() -> None:
    assert metrics.cross_entropy(LOGITS, PAIRS).tolist() == pytest.approx([math.log(2), math.log(2)], abs=1e-5)


def test_kl_divergence_by_hand() -> None:
    pairs = pairs_with([[0]], [[1]]).with_reference(torch.tensor([[0.5, 0.5]]).log() + 7)
    logits = torch.tensor([[0.25, 0.75]]).log()
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert metrics.kl_divergence(logits, pairs).item() == pytest.approx(expected, abs=1e-6)
    assert metrics.kl_divergence(pairs.reference, pairs).item() == pytest.approx(0, abs=1e-6)


def test_kl_divergence_of_a_token_that_the_reference_excludes() -> None:
    pairs = pairs_with([[0]], [[1]]).with_reference(torch.tensor([[0.0, float("-inf")]]))
    assert metrics.kl_divergence(torch.zeros(1, 2), pairs).item() == pytest.approx(math.log(2), abs=1e-6)


def test_rank_counts_tokens_above_the_best_answer() -> None:
    logits = torch.tensor([[2.0, 5.0, 4.0, 2.0, 1.0, 0.0], [9.0, 1.0, 7.0, 8.0, 0.0, 0.0]])
    assert metrics.rank(logits, PAIRS).tolist() == [2.0, 2.0]
    top = torch.tensor([[5.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 5.0, 0.0, 0.0, 0.0, 0.0]])
    assert metrics.rank(top, PAIRS).tolist() == [0.0, 0.0]


def test_directions_are_declared() -> None:
    higher = {name for name, metric in metrics.METRICS.items() if metric.higher_is_better}
    assert higher == {"logit_difference", "probability_difference"}
    assert [name for name, metric in metrics.METRICS.items() if not metric.differentiable] == ["rank"]
    assert [name for name, metric in metrics.METRICS.items() if metric.needs_reference] == ["kl_divergence"]


Raw = tuple[list[list[int]], list[list[int]], int]


def build(raw: Raw) -> tuple[torch.Tensor, Pairs]:
    """Random logits, and pairs that carry other ones as their reference."""
    answers, foils, seed = raw
    logits = 5 * torch.randn(len(answers), D_VOCAB, generator=torch.Generator().manual_seed(seed))
    return logits, pairs_with(answers, foils).with_reference(logits.flip(1))


@st.composite
def scored_pairs(draw: st.DrawFn) -> Raw:
    size = draw(st.integers(1, 4))
    answers, foils = [], []
    for _ in range(size):
        tokens = draw(st.permutations(range(D_VOCAB)))
        cut, end = draw(st.integers(1, 3)), draw(st.integers(4, D_VOCAB))
        answers.append(list(tokens[:cut]))
        foils.append(list(tokens[cut:end]))
    return answers, foils, draw(st.integers(0, 999))


@given(scored_pairs(), st.sampled_from(sorted(metrics.METRICS)))
def test_columns_give_what_all_of_the_vocabulary_gives(raw: Raw, name: str) -> None:
    (logits, pairs), metric = build(raw), metrics.get(name)
    columns = metric.columns(pairs)
    taken = logits if columns is None else logits.gather(1, columns)
    assert torch.allclose(metric.from_columns(taken, pairs), metric(logits, pairs), atol=1e-5)


@given(scored_pairs(), st.sampled_from(sorted(metrics.METRICS)), st.floats(-20, 20))
def test_no_metric_moves_when_all_logits_shift(raw: Raw, name: str, shift: float) -> None:
    (logits, pairs), metric = build(raw), metrics.get(name)
    # whole numbers, so that the shift does not create or break ties
    logits = logits.round()
    assert torch.allclose(metric(logits + round(shift), pairs), metric(logits, pairs), atol=1e-4)


@given(scored_pairs(), st.sampled_from(sorted(metrics.METRICS)))
def test_rows_do_not_see_each_other(raw: Raw, name: str) -> None:
    (logits, pairs), metric = build(raw), metrics.get(name)
    alone = torch.cat([metric(logits[row : row + 1], pairs[row]) for row in range(len(pairs))])
    assert torch.allclose(alone, metric(logits, pairs), atol=1e-5)


def test_only_the_columns_needed_are_asked_for() -> None:
    assert metrics.logit_difference.columns(PAIRS).tolist() == [[0, 0, 1], [1, 2, 3]]
    assert metrics.probability_difference.columns(PAIRS) is None


def test_half_precision_is_computed_in_float32() -> None:
    assert metrics.logit_difference(LOGITS.bfloat16(), PAIRS).dtype == torch.float32
    assert metrics.logit_difference(LOGITS.double(), PAIRS).dtype == torch.float64


def test_gradient_of_the_logit_difference() -> None:
    logits = LOGITS.clone().requires_grad_(True)
    metrics.logit_difference(logits, PAIRS).sum().backward()
    assert logits.grad.tolist() == [[1, -1, 0, 0, 0, 0], [0, 0.5, 0.5, -1, 0, 0]]


@pytest.mark.parametrize("name", ["probability_difference", "kl_divergence", "cross_entropy"])
def test_gradients_agree_with_finite_differences(name: str) -> None:
    logits = torch.randn(2, D_VOCAB, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pairs = PAIRS.with_reference(logits.flip(0))
    assert torch.autograd.gradcheck(lambda x: metrics.get(name)(x, pairs), logits.requires_grad_(True))


def test_missing_reference_says_how_to_get_it() -> None:
    with pytest.raises(MetricError, match="with_reference"):
        metrics.kl_divergence(LOGITS, PAIRS)
    with pytest.raises(MetricError, match="2 columns, the logits 6"):
        metrics.kl_divergence(LOGITS, PAIRS.with_reference(torch.zeros(2, 2)))


def test_missing_foils_are_an_error() -> None:
    bare = Pairs(PAIRS.clean, PAIRS.corrupted, PAIRS.answers, torch.zeros(2, 0, dtype=torch.long))
    partly = pairs_with([[0], [1]], [[2], []])
    for pairs in (bare, partly):
        for metric in (metrics.logit_difference, metrics.probability_difference):
            with pytest.raises(MetricError, match="no foil"):
                metric(LOGITS, pairs)
    assert metrics.cross_entropy(LOGITS, bare).shape == (2,)


def test_rows_and_vocabulary_must_fit() -> None:
    with pytest.raises(MetricError, match="1 rows of logits for 2 pairs"):
        metrics.rank(LOGITS[:1], PAIRS)
    with pytest.raises(MetricError, match="token 3 of answers or foils is outside the 3 columns"):
        metrics.logit_difference(LOGITS[:, :3], PAIRS)
    with pytest.raises(MetricError, match="expected the 3 columns"):
        metrics.logit_difference.from_columns(LOGITS, PAIRS)


@pytest.mark.parametrize("name", sorted(metrics.METRICS))
def test_nan_logits_are_an_error_for_every_metric(name: str) -> None:
    broken = LOGITS.clone()
    broken[1, 5] = float("nan")
    with pytest.raises(MetricError, match="logits of pair 1 hold NaN"):
        metrics.get(name)(broken, PAIRS.with_reference(LOGITS))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda logits, pairs: logits.mean(), r"expected shape \[2\].*got \[\]"),
        (lambda logits, pairs: logits, r"got \[2, 6\]"),
        (lambda logits, pairs: 3.0, "got float"),
        (lambda logits, pairs: logits.argmax(dim=1), "int64"),
        (lambda logits, pairs: logits[:, 0] / 0, "pair 0 gave inf; 2 of 2"),
        (lambda logits, pairs: logits[:, 0] * float("nan"), "gave nan"),
    ],
)
def test_what_a_function_of_ones_own_returns_is_checked(function, message: str) -> None:
    with pytest.raises(MetricError, match=message) as caught:
        Metric.from_function(function, name="mine")(LOGITS.abs() + 1, PAIRS)
    assert "mine" in str(caught.value)


def test_a_function_that_loses_the_gradient_must_say_so() -> None:
    def detached(logits: torch.Tensor, pairs: Pairs) -> torch.Tensor:
        return logits.detach()[:, 0]

    logits = LOGITS.clone().requires_grad_(True)
    with pytest.raises(MetricError, match="differentiable=False"):
        metrics.get(detached)(logits, PAIRS)
    with torch.no_grad():
        assert metrics.get(detached)(logits, PAIRS).shape == (2,)
    assert Metric.from_function(detached, differentiable=False)(logits, PAIRS).shape == (2,)


def test_get_finds_wraps_and_explains() -> None:
    assert metrics.get("rank") is metrics.rank
    assert metrics.get(metrics.rank) is metrics.rank

    def mine(logits: torch.Tensor, pairs: Pairs) -> torch.Tensor:
        return logits[:, 0]

    assert metrics.get(mine).name == "mine"
    assert metrics.get(mine).columns(PAIRS) is None
    with pytest.raises(MetricError, match=r"did you mean 'logit_difference'.*kl_divergence"):
        metrics.get("logit_diff")
