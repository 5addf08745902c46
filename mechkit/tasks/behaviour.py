"""Does the model show the behaviour? Both runs' metric, per pair, with intervals, and a warning when it does not."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import BehaviourWarning, TaskError
from ..results import BaselineResult
from ..stats import Interval, mean_interval
from .metrics import Metric
from .pairs import END, Pairs

CHUNK = 128


def end_logits(model: Any, pairs: Pairs, side: str, *, where: str) -> Float[Tensor, "pairs d_vocab"]:
    """The model's logits at END of the clean or the corrupted prompts; raises TaskError when it cannot run prompts."""
    if not hasattr(model, "last_logits"):
        raise TaskError(
            f"{where}: {type(model).__name__} cannot run prompts; give a model from mk.load(...) or a HookedModel"
        )
    prompts = pairs.clean if side == "clean" else pairs.corrupted
    with torch.no_grad():
        logits: Tensor = model.last_logits([list(prompt) for prompt in prompts], pairs.positions[END].tolist())
    return logits


def chunks(pairs: Pairs) -> list[Pairs]:
    """The pairs in runs of 128, so that logits over the whole vocabulary fit into memory."""
    return [pairs[start : start + CHUNK] for start in range(0, len(pairs), CHUNK)]


def measure_baseline(
    model: Any,
    pairs: Pairs,
    metric: Metric,
    *,
    clusters: Sequence[str],
    confidence: float,
    attrs: Mapping[str, str | int | float],
    where: str,
) -> BaselineResult:
    """Run both sides, measure them, and warn where the model does not show the behaviour."""
    clean, corrupted = measure_sides(model, pairs, metric, where=where)
    gap = mean_interval(clean - corrupted, clusters=clusters, confidence=confidence)
    shortfall = describe_shortfall(gap, metric, len(set(clusters)))
    if shortfall:
        warnings.warn(f"{where}: {shortfall}", BehaviourWarning, stacklevel=3)
    made_with = {"model": getattr(model, "name", "unnamed"), **getattr(model, "provenance", {})}
    return BaselineResult.from_arrays(clean, corrupted, clusters=list(clusters), attrs={**made_with, **attrs})


def measure_sides(
    model: Any, pairs: Pairs, metric: Metric, *, where: str
) -> tuple[Float[np.ndarray, " pairs"], Float[np.ndarray, " pairs"]]:
    """The metric of the clean and of the corrupted run, 128 pairs at a time.

    A metric that needs a reference gets this model's clean logits, unless the pairs carry one.
    """
    sides: dict[str, list[np.ndarray]] = {"clean": [], "corrupted": []}
    for part in chunks(pairs):
        for side, values in sides.items():
            logits = end_logits(model, part, side, where=where)
            if metric.needs_reference and part.reference is None:
                part = part.with_reference(logits)
            values.append(metric(logits, part).cpu().double().numpy())
    clean, corrupted = (np.concatenate(values) for values in sides.values())
    return clean, corrupted


def describe_shortfall(gap: Interval, metric: Metric, clusters: int) -> str | None:
    """Why the gap clean − corrupted does not show the behaviour; None when it does.

    The whole interval must lie on the metric's better side of 0.
    """
    size = f"clean − corrupted of {metric.name} is {gap}"
    if np.isnan(gap.low) or np.isnan(gap.high):
        return (
            f"{size}: {clusters} cluster of pairs gives no interval; draw more pairs, or choose with_clusters('pair')"
        )
    low, high = (gap.low, gap.high) if metric.higher_is_better else (-gap.high, -gap.low)
    if high < 0:
        return f"{size}, on the wrong side of 0: the corrupted prompts show the behaviour more than the clean ones"
    if low <= 0:
        return (
            f"{size}, which includes 0: the model does not show the behaviour on these pairs, so effects are "
            "undefined; try a larger model, other prompts, or more pairs"
        )
    return None
