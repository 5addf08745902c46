import warnings

import numpy as np
import pytest
import task_tokenizers
import torch

from mechkit.errors import BehaviourWarning, TaskError
from mechkit.models import HookedModel
from mechkit.stats import Interval
from mechkit.tasks import Metric, Task, from_tokens, induction, ioi, metrics
from mechkit.tasks.behaviour import describe_shortfall

TOKENIZER = task_tokenizers.make()


class Counts:
    """A model that likes rare tokens: the logit of a token is minus how often the prompt holds it (up to END)."""

    name = "counts"
    tokenizer = TOKENIZER
    d_vocab = len(TOKENIZER)

    def __init__(self, sign: float = -1.0) -> None:
        self.sign = sign

    def last_logits(self, prompts: list[list[int]], positions: list[int]) -> torch.Tensor:
        rows = [
            torch.bincount(torch.tensor(prompt[: end + 1]), minlength=self.d_vocab)
            for prompt, end in zip(prompts, positions, strict=True)
        ]
        return self.sign * torch.stack(rows).float()


class Noise(Counts):
    """A model whose logits depend on the prompt, but not on who is repeated."""

    def last_logits(self, prompts: list[list[int]], positions: list[int]) -> torch.Tensor:
        seeds = [sum(token * place for place, token in enumerate(prompt, start=1)) for prompt in prompts]
        return torch.stack([torch.randn(self.d_vocab, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def test_baseline_by_hand() -> None:
    # IO occurs once and S twice; swapped, it is the other way round
    result = ioi(TOKENIZER, 20).baseline(Counts())
    assert result.clean.values.tolist() == [1.0] * 20
    assert result.corrupted.values.tolist() == [-1.0] * 20
    assert result.attrs["model"] == "counts"
    assert result.attrs["task"] == "ioi"
    assert result.attrs["metric"] == "logit_difference"
    gap = result.interval().sel(run="gap")
    assert (float(gap["estimate"]), float(gap["low"]), float(gap["high"])) == (2.0, 2.0, 2.0)


def test_intervals_resample_the_tasks_clusters() -> None:
    task = ioi(TOKENIZER, 60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BehaviourWarning)
        by_template, by_pair = task.baseline(Noise()), task.with_clusters("pair").baseline(Noise())
    assert by_template.data.coords["cluster"].values.tolist() == list(task.pairs.templates)
    assert len(set(by_pair.data.coords["cluster"].values.tolist())) == 60


def test_a_baseline_does_not_depend_on_how_pairs_are_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    task = ioi(TOKENIZER, 20, corruption="random_s2").with_metric("kl_divergence")
    whole = task.baseline(Counts())
    monkeypatch.setattr("mechkit.tasks.behaviour.CHUNK", 7)
    assert np.allclose(task.baseline(Counts()).corrupted.values, whole.corrupted.values, atol=1e-6)


def test_end_is_where_the_answer_is_read() -> None:
    task = from_tokens([[5, 6, 7, 7]] * 2, [[5, 8, 7, 7], [5, 9, 7, 7]], [6, 6], [5, 5], positions={"END": [1, 1]})
    result = task.baseline(Counts(sign=1.0))
    # up to END, 6 and 5 occur once each in clean; 6 not at all in corrupted
    assert result.clean.values.tolist() == [0.0, 0.0]
    assert result.corrupted.values.tolist() == [-1.0, -1.0]


def test_kl_takes_the_models_own_clean_run_unless_the_pairs_carry_one() -> None:
    task = ioi(TOKENIZER, 10).with_metric("kl_divergence")
    own = task.baseline(Counts())
    assert np.allclose(own.clean.values, 0, atol=1e-6)
    assert (own.corrupted.values > 0).all()
    other = task.with_reference(Counts(sign=-2.0)).baseline(Counts())
    assert (other.clean.values > 1e-3).all()


def test_a_model_without_the_behaviour_is_warned_about() -> None:
    with pytest.warns(BehaviourWarning, match=r"ioi.baseline.*includes 0"):
        ioi(TOKENIZER, 40).baseline(Counts(sign=0.0))
    with pytest.warns(BehaviourWarning, match="wrong side of 0"):
        ioi(TOKENIZER, 20).baseline(Counts(sign=1.0))
    with pytest.warns(BehaviourWarning, match="1 cluster of pairs gives no interval"):
        ioi(TOKENIZER, 1).baseline(Counts())


def test_a_model_with_the_behaviour_is_not() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for metric in ("logit_difference", "probability_difference", "cross_entropy", "rank"):
            ioi(TOKENIZER, 20).with_metric(metric).baseline(Counts())


@pytest.mark.parametrize(
    ("gap", "higher", "found"),
    [
        (Interval(1.0, 0.1, 2.0), True, None),
        (Interval(1.0, 0.0, 2.0), True, "includes 0"),
        (Interval(0.0, 0.0, 0.0), True, "includes 0"),
        (Interval(-1.0, -2.0, -0.1), True, "wrong side"),
        (Interval(-1.0, -2.0, -0.1), False, None),
        (Interval(-1.0, -2.0, 0.1), False, "includes 0"),
        (Interval(1.0, 0.1, 2.0), False, "wrong side"),
        (Interval(1.0, float("nan"), float("nan")), True, "no interval"),
    ],
)
def test_when_a_gap_shows_the_behaviour(gap: Interval, higher: bool, found: str | None) -> None:
    metric = Metric("mine", lambda logits, pairs: logits[:, 0], higher_is_better=higher)
    said = describe_shortfall(gap, metric, 9)
    assert (said is None) if found is None else (said is not None and found in said)


def test_a_real_model_is_read_where_it_stands(tiny_llama) -> None:
    model = HookedModel(tiny_llama, name="tiny")
    task = induction(model, 6, periods=(4, 7))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BehaviourWarning)
        result = task.baseline(model)
    for row, prompt in enumerate(task.pairs.corrupted):
        logits = tiny_llama(torch.tensor([prompt])).logits[0, -1]
        wanted = logits[task.pairs.answers[row, 0]] - logits[task.pairs.foils[row, 0]]
        assert float(result.corrupted[row]) == pytest.approx(wanted.item(), abs=1e-4)
    reference = task.with_reference(model).pairs.reference
    assert torch.allclose(reference[2], tiny_llama(torch.tensor([task.pairs.clean[2]])).logits[0, -1], atol=1e-4)


def test_something_that_cannot_run_is_an_error() -> None:
    task: Task = induction(64, 4)
    for call in (task.baseline, task.with_reference):
        with pytest.raises(TaskError, match="object cannot run prompts"):
            call(object())


def test_metrics_that_fail_are_not_hidden() -> None:
    task = from_tokens([[1, 2]], [[1, 3]], [5]).with_metric(metrics.logit_difference)
    with pytest.raises(metrics.MetricError, match="no foil"):
        task.baseline(Counts())
