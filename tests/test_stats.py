"""Intervals: hand-worked cases, agreement with scipy, coverage by simulation, clusters, missing examples, invariants."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats as scipy_stats

from mechkit.errors import ResultError
from mechkit.stats import Interval, mean_interval, ratio_interval

finite = st.floats(-100, 100).map(lambda value: round(value, 3))


def skewed(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).exponential(size=shape)


@pytest.mark.parametrize("seed", range(4))
def test_mean_agrees_with_scipy(seed: int) -> None:
    values = skewed(seed, 25)
    ours = mean_interval(values, resamples=20_000)
    theirs = scipy_stats.bootstrap((values,), np.mean, method="BCa", n_resamples=20_000, rng=1).confidence_interval
    # two independent sets of 20,000 draws: the ends differ by Monte Carlo error alone, about 1% of the width
    tolerance = 0.03 * (theirs.high - theirs.low)
    assert ours.estimate == pytest.approx(values.mean())
    assert [ours.low, ours.high] == pytest.approx([theirs.low, theirs.high], abs=tolerance)
    # and it is not merely the percentile interval, which sits lower on skewed data
    percentile = scipy_stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=1)
    assert ours.high - percentile.confidence_interval.high > 2 * tolerance / 3


def test_ratio_agrees_with_scipy() -> None:
    denominators = 1 + skewed(5, 30)
    numerators = 0.5 * denominators + np.random.default_rng(6).normal(0, 0.4, 30)

    def ratio(top: np.ndarray, bottom: np.ndarray, axis: int) -> np.ndarray:
        return top.mean(axis) / bottom.mean(axis)

    ours = ratio_interval(numerators, denominators, resamples=20_000, confidence=0.9)
    theirs = scipy_stats.bootstrap(
        (numerators, denominators), ratio, paired=True, method="BCa", n_resamples=20_000, confidence_level=0.9, rng=0
    ).confidence_interval
    assert ours.estimate == pytest.approx(numerators.mean() / denominators.mean())
    assert [ours.low, ours.high] == pytest.approx([theirs.low, theirs.high], abs=0.03 * (theirs.high - theirs.low))


def test_hand_worked_two_examples() -> None:
    # means of two draws from {0, 1}: 0, .5, .5, 1; symmetric, so BCa is the percentile interval and reaches both ends
    interval = mean_interval(np.array([0.0, 1.0]))
    assert (interval.estimate, interval.low, interval.high) == (0.5, 0.0, 1.0)
    # 50% of the four equally likely means lie at .5, so the 40% interval is that one point
    assert str(mean_interval(np.array([0.0, 1.0]), confidence=0.4)) == "0.5 [0.5, 0.5]"


def test_equal_values_have_zero_width() -> None:
    interval = mean_interval(np.full((3, 7), 0.1))
    assert np.array_equal(interval.low, interval.estimate) and np.array_equal(interval.high, interval.estimate)
    proportional = ratio_interval(np.array([0.3, 0.6, 0.9]), np.array([0.1, 0.2, 0.3]))
    assert proportional.low == proportional.estimate == proportional.high == pytest.approx(3.0)


def test_fewer_than_two_clusters_have_no_interval() -> None:
    one_example = mean_interval(np.array([2.0]))
    one_cluster = mean_interval(np.array([2.0, 4.0]), clusters=["a", "a"])
    assert str(one_example) == "2 (no interval)"
    assert (one_example.estimate, one_cluster.estimate) == (2.0, 3.0)
    assert np.isnan([one_example.low, one_example.high, one_cluster.low, one_cluster.high]).all()


def test_missing_examples_are_left_out_of_their_cell() -> None:
    values = skewed(2, 3, 12)
    values[1, 3:] = np.nan
    values[2, :] = np.nan
    interval = mean_interval(values)
    alone = mean_interval(values[:1])
    assert interval.estimate[0] == alone.estimate[0] and interval.low[0] == pytest.approx(alone.low[0])
    assert interval.estimate[1] == pytest.approx(values[1, :3].mean())
    assert values[1, :3].min() <= interval.low[1] < interval.high[1] <= values[1, :3].max()
    assert np.isnan([interval.estimate[2], interval.low[2], interval.high[2]]).all()


def test_ratio_leaves_missing_examples_out_of_both_means() -> None:
    denominators = 1 + skewed(3, 10)
    numerators = np.stack([denominators, np.where(np.arange(10) < 4, denominators, np.nan)])
    interval = ratio_interval(numerators, denominators)
    for ends in (interval.estimate, interval.low, interval.high):
        assert ends == pytest.approx([1.0, 1.0])


def test_correlated_clusters_widen_the_interval() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 8)
    values = generator.normal(size=8)[labels] + 0.2 * generator.normal(size=64)
    plain, clustered = mean_interval(values), mean_interval(values, clusters=labels)
    assert clustered.estimate == pytest.approx(plain.estimate)
    # identical members would widen it by sqrt(8) = 2.8
    assert 2.0 < (clustered.high - clustered.low) / (plain.high - plain.low) < 3.5


def test_clusters_of_equal_size_are_the_means_of_clusters() -> None:
    values = skewed(4, 5, 12)
    labels = [f"template {index % 6}" for index in range(12)]
    averaged = (values[:, :6] + values[:, 6:]) / 2
    by_label, by_hand = mean_interval(values, clusters=labels), mean_interval(averaged)
    assert by_label.low == pytest.approx(by_hand.low) and by_label.high == pytest.approx(by_hand.high)


def test_coverage_of_a_skewed_ratio_at_32_examples() -> None:
    runs, covered = 400, 0
    generator = np.random.default_rng(11)
    for run in range(runs):
        gap = generator.gamma(4.0, 1.0, 32)  # the true ratio is .5, with noise that grows with the gap
        interval = ratio_interval(gap * generator.exponential(0.5, 32), gap, resamples=500, seed=run)
        covered += interval.includes(0.5)
    # nominal .95; the standard error of the estimate over 400 runs is .011, and BCa on 32 skewed pairs loses 1 to 2 points
    assert 0.91 <= covered / runs <= 0.98


@pytest.mark.parametrize("with_missing", [False, True])
def test_blocks_of_cells_do_not_matter(with_missing: bool) -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=(3000, 64))
    if with_missing:
        values[generator.random(values.shape) < 0.1] = np.nan
    whole = ratio_interval(values, np.ones(64))
    part = ratio_interval(values[2500:], np.ones(64))
    assert whole.low[2500:] == pytest.approx(part.low) and whole.high[2500:] == pytest.approx(part.high)


def test_seed_decides_the_draws() -> None:
    values = skewed(9, 20)
    assert mean_interval(values, seed=3).low == mean_interval(values, seed=3).low
    assert mean_interval(values, seed=3).low != mean_interval(values, seed=4).low


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(2, 9)), elements=finite),
    st.floats(0.1, 10),
    st.floats(-5, 5),
)
def test_mean_interval_is_ordered_bounded_and_equivariant(values: np.ndarray, scale: float, shift: float) -> None:
    interval = mean_interval(values, resamples=200)
    slack = 1e-9 * (1 + np.abs(values).max())
    assert (interval.low <= interval.high + slack).all()
    assert (interval.low >= values.min(-1) - slack).all() and (interval.high <= values.max(-1) + slack).all()
    moved = mean_interval(scale * values + shift, resamples=200)
    # order statistics may swap among ties at rounding, never move by more than the rounding itself
    assert moved.estimate == pytest.approx(scale * interval.estimate + shift, abs=1e-6)
    flipped = mean_interval(-values, resamples=200)
    assert flipped.low == pytest.approx(-interval.high, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float64, st.integers(2, 9), elements=finite))
def test_a_wider_confidence_contains_a_narrower_one(values: np.ndarray) -> None:
    narrow, wide = (mean_interval(values, confidence=level, resamples=300) for level in (0.5, 0.99))
    assert wide.low <= narrow.low + 1e-9 and narrow.high <= wide.high + 1e-9


def test_interval_includes() -> None:
    interval = Interval(np.array([1.0, 2.0, 0.0]), np.array([0.0, 1.0, np.nan]), np.array([2.0, 3.0, np.nan]))
    assert interval.includes(0.0).tolist() == [True, False, True]
    assert Interval(1.0, 0.5, 1.5).includes(2.0) is False
    with pytest.raises(ResultError, match="one shape"):
        Interval(1.0, np.zeros(2), 1.0)


def test_bad_input_is_named() -> None:
    values = np.ones((2, 4))
    with pytest.raises(ResultError, match=r"one label for each of the 4 examples, got shape \(3,\)"):
        mean_interval(values, clusters=[0, 1, 2])
    with pytest.raises(ResultError, match="at least one example"):
        mean_interval(np.ones((2, 0)))
    with pytest.raises(ResultError, match="confidence"):
        mean_interval(values, confidence=95.0)
    with pytest.raises(ResultError, match="resamples"):
        mean_interval(values, resamples=1)
    with pytest.raises(ResultError, match=r"expected denominators of shape \(4,\).*got \(3,\)"):
        ratio_interval(values, np.ones(3))
    with pytest.raises(ResultError, match="every denominator must be finite"):
        ratio_interval(values, np.array([1.0, 1.0, 1.0, np.nan]))
    with pytest.raises(ResultError, match="inf"):
        mean_interval(np.array([1.0, np.inf]))
