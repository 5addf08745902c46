"""Metrics: one number per pair from the logits at END.

A metric is called as `metric(logits, pairs)`, logits `[batch, d_vocab]` and the pairs of just these rows, and gives
`[batch]`. It declares in which direction it is better, whether it can be differentiated, and which columns of the
vocabulary it needs: a logit difference needs two, so that the rest of the unembedding can be left out.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import MetricError
from .pairs import PAD, Pairs


@dataclass(frozen=True)
class Metric:
    """A named function of logits and pairs, with what one must know to use it.

    `function(logits, pairs)` sees all columns. Where `column_function` is given, it sees the logits of
    `columns(pairs)` alone and must give the same numbers; the two are checked against each other in the tests.
    """

    name: str
    function: Callable[[Tensor, Pairs], Tensor]
    higher_is_better: bool = True
    differentiable: bool = True
    needs_reference: bool = False
    needs_foils: bool = False
    column_function: Callable[[Tensor, Pairs], Tensor] | None = None

    def __call__(self, logits: Float[Tensor, "batch d_vocab"], pairs: Pairs) -> Float[Tensor, " batch"]:
        """Compute the metric of each pair.

        Raises MetricError when rows do not match the pairs, an answer is outside the vocabulary, the reference or
        foils it needs are missing, or the outcome has the wrong shape, is not finite, or lost its gradient.
        """
        self._check_rows(logits, pairs)
        largest = int(torch.cat([pairs.answers, pairs.foils], dim=1).max())
        if largest >= logits.shape[1]:
            raise MetricError(
                f"{self.name}: token {largest} of answers or foils is outside the {logits.shape[1]} columns of the "
                "logits; the pairs were made for another tokenizer"
            )
        return self._checked(self.function(_wide(logits), pairs), logits, pairs)

    def columns(self, pairs: Pairs) -> Int[Tensor, "batch k"] | None:
        """The columns of the vocabulary that `from_columns` expects, answers first, then foils; None means all.

        Where a pair has fewer answers or foils than another, its row is filled up with a column that is not used.
        """
        if self.column_function is None:
            return None
        tokens = torch.cat([pairs.answers, pairs.foils], dim=1)
        return torch.where(tokens == PAD, pairs.answers.amax(dim=1, keepdim=True), tokens)

    def from_columns(self, logits: Float[Tensor, "batch k"], pairs: Pairs) -> Float[Tensor, " batch"]:
        """Compute the metric from the logits of `columns(pairs)` alone (all columns where that is None)."""
        if self.column_function is None:
            return self(logits, pairs)
        self._check_rows(logits, pairs)
        expected = pairs.answers.shape[1] + pairs.foils.shape[1]
        if logits.shape[1] != expected:
            raise MetricError(
                f"{self.name}.from_columns: expected the {expected} columns of columns(pairs), got {logits.shape[1]}"
            )
        return self._checked(self.column_function(_wide(logits), pairs), logits, pairs)

    @classmethod
    def from_function(
        cls,
        function: Callable[[Tensor, Pairs], Tensor],
        *,
        name: str | None = None,
        higher_is_better: bool = True,
        differentiable: bool = True,
        needs_reference: bool = False,
    ) -> "Metric":
        """Wrap a function of one's own; its outcome is checked at every call."""
        if not callable(function):
            raise MetricError(f"Metric.from_function: {function!r} cannot be called; give f(logits, pairs) -> [batch]")
        label = name or str(getattr(function, "__name__", type(function).__name__))
        return cls(label, function, higher_is_better, differentiable, needs_reference)

    def __repr__(self) -> str:
        better = "higher" if self.higher_is_better else "lower"
        return f"Metric({self.name!r}, {better} is better{'' if self.differentiable else ', not differentiable'})"

    def _check_rows(self, logits: Tensor, pairs: Pairs) -> None:
        if logits.shape[0] != len(pairs):
            raise MetricError(
                f"{self.name}: {logits.shape[0]} rows of logits for {len(pairs)} pairs; give the pairs of these rows, "
                "as in metric(logits, pairs[rows])"
            )
        if bool(logits.isnan().any()):
            row = int(logits.isnan().any(dim=1).nonzero()[0])
            raise MetricError(f"{self.name}: the logits of pair {row} hold NaN; the model or an edit made them")
        if self.needs_reference and pairs.reference is None:
            raise MetricError(
                f"{self.name}: the pairs carry no reference logits; call task.with_reference(model), or "
                "pairs.with_reference(logits) with the clean run's logits at END"
            )
        if self.needs_reference and pairs.reference is not None and pairs.reference.shape[1] != logits.shape[1]:
            raise MetricError(
                f"{self.name}: the reference has {pairs.reference.shape[1]} columns, the logits {logits.shape[1]}; "
                "take the reference from the same model"
            )
        if self.needs_foils and (pairs.foils.shape[1] == 0 or bool((pairs.foils == PAD).all(dim=1).any())):
            raise MetricError(
                f"{self.name}: some pairs have no foil; give one to every pair, or measure cross_entropy or rank"
            )

    def _checked(self, outcome: object, logits: Tensor, pairs: Pairs) -> Tensor:
        batch = len(pairs)
        if not isinstance(outcome, Tensor):
            raise MetricError(f"{self.name}: expected a tensor of shape [{batch}], got {type(outcome).__name__}")
        if outcome.shape != (batch,):
            raise MetricError(
                f"{self.name}: expected shape [{batch}], one number per pair, got {list(outcome.shape)}; "
                "do not average over the batch"
            )
        if not outcome.is_floating_point():
            raise MetricError(
                f"{self.name}: expected floating-point numbers, got {outcome.dtype}; convert with .float()"
            )
        finite = outcome.detach().isfinite()
        if not bool(finite.all()):
            row = int((~finite).nonzero()[0])
            raise MetricError(
                f"{self.name}: pair {row} gave {outcome[row].item()}; {int((~finite).sum())} of {batch} are not finite"
            )
        if self.differentiable and logits.requires_grad and torch.is_grad_enabled() and not outcome.requires_grad:
            raise MetricError(
                f"{self.name}: declared differentiable, but the outcome does not depend on the logits through "
                "autograd; declare differentiable=False, or compute it without .detach() and .item()"
            )
        return outcome


def get(metric: "str | Metric | Callable[[Tensor, Pairs], Tensor]") -> Metric:
    """Find a metric by name; a Metric comes back as it is, any other callable is wrapped.

    Raises MetricError with the known names when there is none of that name.
    """
    if isinstance(metric, Metric):
        return metric
    if callable(metric):
        return Metric.from_function(metric)
    if metric in METRICS:
        return METRICS[metric]
    near = difflib.get_close_matches(str(metric), METRICS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    raise MetricError(f"metrics.get: no metric named {metric!r}{hint} Known: {', '.join(METRICS)}")


def _wide(logits: Tensor) -> Tensor:
    # half precision loses the small differences that effects are made of
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _masked_mean(values: Tensor, used: Tensor) -> Tensor:
    return torch.where(used, values, 0.0).sum(dim=1) / used.sum(dim=1)


def _take(values: Tensor, tokens: Tensor, padding: float) -> Tensor:
    """Pick `values[i, tokens[i, j]]`, and `padding` where the token is -1; gives [batch, k]."""
    tokens = tokens.to(values.device)
    return torch.where(tokens == PAD, padding, values.gather(1, tokens.clamp(min=0)))


def _logit_difference(logits: Tensor, pairs: Pairs) -> Tensor:
    taken = [_take(logits, tokens, 0.0) for tokens in (pairs.answers, pairs.foils)]
    return _logit_difference_of_columns(torch.cat(taken, dim=1), pairs)


def _logit_difference_of_columns(logits: Tensor, pairs: Pairs) -> Tensor:
    width = pairs.answers.shape[1]
    answers, foils = ((tokens != PAD).to(logits.device) for tokens in (pairs.answers, pairs.foils))
    return _masked_mean(logits[:, :width], answers) - _masked_mean(logits[:, width:], foils)


def _probability_difference(logits: Tensor, pairs: Pairs) -> Tensor:
    probabilities = logits.softmax(dim=1)
    return _take(probabilities, pairs.answers, 0.0).sum(dim=1) - _take(probabilities, pairs.foils, 0.0).sum(dim=1)


def _kl_divergence(logits: Tensor, pairs: Pairs) -> Tensor:
    assert pairs.reference is not None  # Metric._check_rows has refused this
    reference = pairs.reference.to(logits).log_softmax(dim=1)
    gap = reference - logits.log_softmax(dim=1)
    # a column that the reference excludes (-inf) contributes 0, not NaN
    return torch.where(reference.isneginf(), 0.0, reference.exp() * gap).sum(dim=1)


def _cross_entropy(logits: Tensor, pairs: Pairs) -> Tensor:
    return -_take(logits.log_softmax(dim=1), pairs.answers, float("-inf")).logsumexp(dim=1)


def _rank(logits: Tensor, pairs: Pairs) -> Tensor:
    best = _take(logits, pairs.answers, float("-inf")).amax(dim=1, keepdim=True)
    return (logits > best).sum(dim=1).to(logits.dtype)


logit_difference = Metric(
    "logit_difference", _logit_difference, needs_foils=True, column_function=_logit_difference_of_columns
)
"""Mean logit of the answers minus mean logit of the foils, in nats (Wang et al. 2023, arXiv 2211.00593)."""

probability_difference = Metric("probability_difference", _probability_difference, needs_foils=True)
"""Summed probability of the answers minus that of the foils, from -1 to 1 (Hanna et al. 2023, arXiv 2305.00586)."""

kl_divergence = Metric("kl_divergence", _kl_divergence, higher_is_better=False, needs_reference=True)
"""KL(clean run || this run) over the whole vocabulary, in nats; 0 = the clean run (arXiv 2304.14997)."""

cross_entropy = Metric("cross_entropy", _cross_entropy, higher_is_better=False)
"""Minus the log of the summed probability of the answers, in nats."""

rank = Metric("rank", _rank, higher_is_better=False, differentiable=False)
"""How many tokens have a higher logit than the best answer; 0 = the answer is on top."""

METRICS: dict[str, Metric] = {
    metric.name: metric for metric in (logit_difference, probability_difference, kl_divergence, cross_entropy, rank)
}
