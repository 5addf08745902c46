"""Confidence intervals by the bias-corrected and accelerated (BCa) cluster bootstrap, for many cells at once.

Every estimate here is a ratio of sums over clusters of examples, theta = sum_c a_c / sum_c b_c (a mean has b_c = number
of examples in the cluster). Steps, after Efron, "Better bootstrap confidence intervals" (JASA 1987):

1. sum numerators and denominators within each cluster; examples that are NaN in a cell are left out of that cell;
2. draw whole clusters with replacement, as integer weights [resamples, clusters], the same draws for every cell;
3. theta* - theta = (w . r) / (w . b) with r_c = a_c - theta b_c, so one matrix product serves a block of cells;
4. bias correction z0 from the share of theta* below theta, acceleration from the jackknife over clusters;
5. the interval runs between the BCa-adjusted percentiles of theta*, interpolated linearly.

Units are those of the values (`mean_interval`) or a pure ratio (`ratio_interval`). Intervals are per cell: nothing here
corrects for having chosen the largest of many cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Num
from scipy.special import ndtr, ndtri

from .errors import ResultError

__all__ = ["Interval", "mean_interval", "ratio_interval"]

BLOCK = 2**22  # bootstrap values held at once: 32 MiB in float64, whatever the number of cells
ROUNDING = 64 * np.finfo(np.float64).eps  # relative size under which a residual is rounding noise, not spread

Clusters = Sequence[object] | np.ndarray


@dataclass(frozen=True, eq=False)
class Interval:
    """An estimate with the ends of its confidence interval, each one number or one array of the same shape."""

    estimate: np.ndarray | float
    low: np.ndarray | float
    high: np.ndarray | float

    def __post_init__(self) -> None:
        shapes = {name: np.shape(getattr(self, name)) for name in ("estimate", "low", "high")}
        if len(set(shapes.values())) > 1:
            raise ResultError(f"Interval: estimate, low and high must have one shape, got {shapes}")

    def includes(self, value: float) -> np.ndarray | bool:
        """Whether `value` lies in the interval, ends included; an undefined (NaN) interval includes every value."""
        inside = ~((np.asarray(self.low) > value) | (np.asarray(self.high) < value))
        return inside if inside.ndim else bool(inside)

    def __str__(self) -> str:
        if np.ndim(self.estimate):
            return f"Interval(shape={np.shape(self.estimate)})"
        if np.isnan(self.low) or np.isnan(self.high):
            return f"{self.estimate:.3g} (no interval)"
        return f"{self.estimate:.3g} [{self.low:.3g}, {self.high:.3g}]"


def mean_interval(
    values: Num[np.ndarray, "*cells _examples"],
    *,
    clusters: Clusters | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean over the last axis with its BCa interval, for every leading index.

    `clusters` gives one label per example; whole clusters are resampled (default: every example its own cluster).
    A cell measured in fewer than two clusters has NaN ends; one whose cluster means are all equal has zero width.
    Raises `ResultError` for an empty last axis, labels that do not line up, or a confidence outside (0, 1).
    """
    values = _as_cells("mean_interval", values)
    measured = ~np.isnan(values)
    one_for_all = bool(measured.all())
    counts = measured.reshape(-1, values.shape[-1])[: 1 if one_for_all else None].astype(np.float64)
    return _intervals(values, counts, clusters, (confidence, resamples, seed))


def ratio_interval(
    numerators: Num[np.ndarray, "*cells _examples"],
    denominators: Num[np.ndarray, " _examples"],
    *,
    clusters: Clusters | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Ratio of means, mean(numerators) / mean(denominators), with its BCa interval, for every leading index.

    Numerator and denominator of an example are resampled together. An example that is NaN in a cell is left out of
    that cell's numerator *and* denominator, so a cell whose numerators equal the denominators reads exactly 1.
    The interval means little where the mean denominator may be 0: check that with `mean_interval` first.
    `clusters`, shapes and errors are those of `mean_interval`; `denominators` has no cell axes and no NaN.
    """
    numerators = _as_cells("ratio_interval", numerators)
    denominators = np.asarray(denominators, dtype=np.float64)
    if denominators.shape != numerators.shape[-1:]:
        raise ResultError(
            f"ratio_interval: expected denominators of shape {numerators.shape[-1:]}, one per example of the "
            f"numerators' last axis, got {denominators.shape}"
        )
    if not np.isfinite(denominators).all():
        raise ResultError(
            "ratio_interval: every denominator must be finite; leave examples without one out of both arrays"
        )
    measured = ~np.isnan(numerators)
    if measured.all():
        weights = denominators[None]
    else:
        weights = np.where(measured, denominators, 0.0).reshape(-1, denominators.size)
    return _intervals(numerators, weights, clusters, (confidence, resamples, seed))


def _as_cells(caller: str, values: np.ndarray) -> Float[np.ndarray, "*cells examples"]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ResultError(f"{caller}: expected at least one example on the last axis, got shape {array.shape}")
    if np.isinf(array).any():
        raise ResultError(
            f"{caller}: values must be finite, or NaN where not measured; {np.isinf(array).sum()} are inf"
        )
    return array


def _intervals(
    values: Float[np.ndarray, "*cells examples"],
    weights: Float[np.ndarray, "rows examples"],
    clusters: Clusters | None,
    settings: tuple[float, int, int],
) -> Interval:
    """Intervals of sum(values) / sum(weights); `weights` has one row for all cells, or one row per cell."""
    confidence, resamples, seed = settings
    if not 0 < confidence < 1:
        raise ResultError(f"confidence must lie between 0 and 1, got {confidence}")
    if resamples < 2:
        raise ResultError(f"resamples must be at least 2, got {resamples}")
    *cell_shape, n_examples = values.shape
    order, starts = _grouping(clusters, n_examples)
    flat = values.reshape(-1, n_examples)
    n_cells, n_clusters = len(flat), len(starts)
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=resamples).astype(np.float64)

    def by_cluster(array: np.ndarray) -> np.ndarray:
        return np.add.reduceat(array[:, order], starts, axis=-1)

    bounds = np.full((3, n_cells), np.nan)
    block = max(1, BLOCK // resamples)
    for start in range(0, n_cells, block):
        rows = flat[start : start + block]
        measured = ~np.isnan(rows)
        numerators = by_cluster(np.where(measured, rows, 0.0))
        denominators = by_cluster(weights if len(weights) == 1 else weights[start : start + block])
        present = by_cluster(measured.astype(np.int64)) > 0
        bounds[:, start : start + block] = _block(numerators, denominators, present, draws, confidence)
    if cell_shape:
        estimate, low, high = bounds.reshape(3, *cell_shape)
        return Interval(estimate, low, high)
    return Interval(*(float(bound) for bound in bounds[:, 0]))


def _grouping(
    clusters: Clusters | None, n_examples: int
) -> tuple[Int[np.ndarray, " examples"], Int[np.ndarray, " clusters"]]:
    """An order that puts the examples of a cluster side by side, and where each cluster starts in it."""
    if clusters is None:
        return np.arange(n_examples), np.arange(n_examples)
    labels = np.asarray(clusters)
    if labels.shape != (n_examples,):
        raise ResultError(
            f"clusters: expected one label for each of the {n_examples} examples, got shape {labels.shape}"
        )
    _, index = np.unique(labels, return_inverse=True)
    order = np.argsort(index, kind="stable")
    return order, np.flatnonzero(np.diff(index[order], prepend=-1))


def _block(
    numerators: Float[np.ndarray, "cells clusters"],
    denominators: Float[np.ndarray, "rows clusters"],
    present: Bool[np.ndarray, "cells clusters"],
    draws: Float[np.ndarray, "resamples clusters"],
    confidence: float,
) -> Float[np.ndarray, "3 cells"]:
    """Estimate, low and high of sum(numerators) / sum(denominators) for one block of cells."""
    with np.errstate(divide="ignore", invalid="ignore"):
        total = denominators.sum(-1, keepdims=True)
        estimate = numerators.sum(-1, keepdims=True) / total
        expected = estimate * denominators
        residual = numerators - expected
        # summing in another order must not turn equal values into a tiny spread
        residual = np.where(np.abs(residual) <= ROUNDING * (np.abs(numerators) + np.abs(expected)), 0.0, residual)
        # deviations theta* - theta, and the jackknife's
        deviation = residual @ draws.T
        deviation /= denominators @ draws.T
        jackknife = -residual / (total - denominators)
    jackknife = np.where(present, jackknife, np.nan)
    deviation.sort(axis=-1)  # undefined resamples (no measured cluster drawn) are NaN and sort to the end
    low, high = _bca(deviation, jackknife, confidence)
    enough = np.isfinite(estimate[:, 0]) & (present.sum(-1) >= 2)
    ends = np.stack([low, high]) + estimate[:, 0]
    return np.concatenate([estimate.T, np.where(enough, ends, np.nan)])


def _bca(
    deviation: Float[np.ndarray, "cells resamples"], jackknife: Float[np.ndarray, "cells clusters"], confidence: float
) -> tuple[Float[np.ndarray, " cells"], Float[np.ndarray, " cells"]]:
    """BCa ends from each cell's sorted bootstrap deviations and its jackknife values."""
    n_valid = deviation.shape[-1] - np.isnan(deviation).sum(-1)
    divisor = np.maximum(n_valid, 1)
    share_below = ((deviation < 0).sum(-1) + 0.5 * (deviation == 0).sum(-1)) / divisor
    bias = ndtri(np.clip(share_below, 0.5 / divisor, 1 - 0.5 / divisor))

    n_present = np.maximum((~np.isnan(jackknife)).sum(-1, keepdims=True), 1)
    centred = np.nansum(jackknife, axis=-1, keepdims=True) / n_present - jackknife
    cubes, squares = np.nansum(centred**3, -1), np.nansum(centred**2, -1)
    acceleration = np.divide(cubes, 6 * squares**1.5, out=np.zeros_like(cubes), where=squares > 0)

    ends = []
    for tail in ((1 - confidence) / 2, (1 + confidence) / 2):
        shifted = bias + ndtri(tail)
        # past the pole of the transformation the percentile is the extreme one on that side
        level = ndtr(bias + shifted / np.maximum(1 - acceleration * shifted, 1e-6))
        ends.append(_quantile(deviation, n_valid, level))
    return ends[0], ends[1]


def _quantile(
    ordered: Float[np.ndarray, "cells resamples"],
    n_valid: Int[np.ndarray, " cells"],
    level: Float[np.ndarray, " cells"],
) -> Float[np.ndarray, " cells"]:
    """Linear interpolation between order statistics, each cell at its own level, among its first `n_valid` values."""
    place = level * np.maximum(n_valid - 1, 0)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, np.maximum(n_valid - 1, 0))
    cells = np.arange(len(ordered))
    lower, upper = ordered[cells, below], ordered[cells, above]
    with np.errstate(invalid="ignore"):
        return lower + (place - below) * (upper - lower)
