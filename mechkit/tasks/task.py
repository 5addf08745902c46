"""A task: a behaviour, as pairs of prompts with the metric that measures it."""

import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import pandas
import torch
from torch import Tensor

from ..errors import TaskError
from ..results import BaselineResult
from . import metrics
from .behaviour import chunks, end_logits, measure_baseline
from .drawing import Recipe, check_whole, draw, warn_dropped
from .metrics import Metric
from .pairs import Index, Pairs
from .splitting import By, split_by_pair, split_by_template, split_by_words
from .tokens import ModelOrTokenizer, find_tokenizer, shown

ClusterBy = Literal["template", "words", "pair"]

MIN_CLUSTERS = 8


@dataclass(frozen=True, eq=False, repr=False)
class Task:
    """Pairs and a metric, with where they came from.

    `seed` drew the pairs, None if they were given. `dropped` counts candidates (and words and templates) that were left
    out, by reason. `part` says which side of which split this is. `recipe` draws more pairs; given pairs have none.
    `cluster_by` overrides the choice that `clusters` explains.
    """

    name: str
    pairs: Pairs
    metric: Metric
    description: str = ""
    seed: int | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    part: str = ""
    cluster_by: ClusterBy | None = None
    recipe: Recipe | None = None
    tokenizer: Any = None

    def __post_init__(self) -> None:
        if self.cluster_by is not None and self.cluster_by not in get_args(ClusterBy):
            raise TaskError(f"{self.name}: cluster_by={self.cluster_by!r}; expected template, words or pair")

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: Index) -> "Task":
        """The same task on some of its pairs, indexed as `Pairs` are."""
        return replace(self, pairs=self.pairs[index])

    @property
    def clustered_by(self) -> ClusterBy:
        """What labels the clusters: see `clusters`."""
        if self.cluster_by is not None:
            return self.cluster_by
        if len(set(self.pairs.templates)) >= MIN_CLUSTERS:
            return "template"
        first_words = {words[0] for words in self.pairs.words if words}
        return "words" if all(self.pairs.words) and len(first_words) >= MIN_CLUSTERS else "pair"

    @property
    def clusters(self) -> tuple[str, ...]:
        """One label per pair; pairs of one label are not independent, and intervals resample them together.

        Pairs of one sentence frame share most of their tokens, and what one wants to know is how the behaviour carries
        over to other sentences: with at least 8 templates, clusters are templates. Resampling fewer than that gives
        intervals that are too narrow, so then clusters are the pairs' first words (the indirect object, the event), if
        there are 8 of these, and else the pairs; the interval then speaks about these templates alone. Random-token
        pairs share nothing and are their own clusters. Override with `with_clusters`.
        """
        by = self.clustered_by
        if by == "template":
            return self.pairs.templates
        if by == "words":
            return tuple(words[0] if words else "" for words in self.pairs.words)
        return tuple(str(index) for index in range(len(self)))

    @property
    def provenance(self) -> dict[str, str | int]:
        """What a result must say about the task, as plain text and numbers."""
        return {
            "task": self.name,
            "task_description": self.description,
            **({"task_part": self.part} if self.part else {}),
            **({} if self.seed is None else {"seed": self.seed}),
            "metric": self.metric.name,
            "clusters": self.clustered_by,
        }

    def with_metric(self, metric: str | Metric | Callable[[Tensor, Pairs], Tensor]) -> "Task":
        """The same pairs under another metric: a name, a Metric, or a function `f(logits, pairs) -> [batch]`."""
        return replace(self, metric=metrics.get(metric))

    def with_clusters(self, by: ClusterBy | None) -> "Task":
        """The same pairs with clusters by template, first word or pair; None chooses as `clusters` says."""
        return replace(self, cluster_by=by)

    def with_reference(self, model: Any) -> "Task":
        """The same pairs carrying this model's clean logits at END, for the KL divergence."""
        where = f"{self.name}.with_reference"
        rows = [end_logits(model, part, "clean", where=where) for part in chunks(self.pairs)]
        return replace(self, pairs=self.pairs.with_reference(torch.cat(rows)))

    def redraw(self, seed: int, n: int | None = None) -> "Task":
        """Fresh pairs of the same kind, as many as before unless n is given. A part of a split stays within its part.

        Raises TaskError when the pairs were given, not drawn.
        """
        if self.recipe is None:
            raise TaskError(
                f"{self.name}: the pairs were given, not drawn, so there are no fresh ones; split by pair, or build "
                "another task from other pairs"
            )
        pairs, dropped = draw(self.recipe, len(self) if n is None else n, seed)
        return replace(self, pairs=pairs, dropped=dropped, seed=seed)

    def split(self, fraction: float = 0.5, by: By = "pair", seed: int = 0) -> tuple["Task", "Task"]:
        """Two disjoint parts, the first with about `fraction` of the pairs: locate on one, verify on the other.

        `by` says what the parts do not share: "template" (sentence frames), "words" (names, places, nouns …; a part of
        drawn pairs is drawn anew from its own words) or "pair". Later redraws of a part stay disjoint, too.
        Raises TaskError when a side would be empty; warns when given pairs fit neither side and are lost.
        """
        if not 0 < fraction < 1:
            raise TaskError(f"{self.name}.split: fraction={fraction!r}; expected a number between 0 and 1")
        check_whole(f"{self.name}.split: seed", seed, 0)
        if by == "template":
            parts = split_by_template(self.pairs, self.recipe, fraction, seed)
        elif by == "words":
            parts = split_by_words(self.pairs, self.recipe, fraction, seed, self.seed or 0)
        elif by == "pair":
            parts = split_by_pair(self.pairs, self.recipe, fraction, seed)
        else:
            raise TaskError(f"{self.name}.split: by={by!r}; expected 'template', 'words' or 'pair'")
        lost = len(self) - sum(len(part.pairs) for part in parts)
        if lost:
            warn_dropped(f"{self.name}.split", parts[0].dropped, len(self))
        first, second = (
            replace(
                self,
                pairs=part.pairs,
                recipe=part.recipe,
                dropped=part.dropped or self.dropped,
                part=f"{self.part}{' > ' if self.part else ''}{side} of split({fraction:g}, by={by!r}, seed={seed})",
            )
            for side, part in zip(("first", "second"), parts, strict=True)
        )
        return first, second

    def baseline(self, model: Any, confidence: float = 0.95) -> BaselineResult:
        """The metric of both runs, per pair, with intervals of each and of their gap.

        Warns with BehaviourWarning when the gap clean − corrupted is not clearly on the metric's better side.
        """
        return measure_baseline(
            model,
            self.pairs,
            self.metric,
            clusters=self.clusters,
            confidence=confidence,
            attrs=self.provenance,
            where=f"{self.name}.baseline",
        )

    def table(self, model: ModelOrTokenizer = None, n: int = 5) -> pandas.DataFrame:
        """The first n pairs as text, or as ids where no tokenizer is known."""
        tokenizer = self.tokenizer if model is None else find_tokenizer(model)
        few = self.pairs[: max(1, n)]
        listed = {
            side: [[shown(tokenizer, [token]) for token in row if token >= 0] for row in tokens.tolist()]
            for side, tokens in (("answers", few.answers), ("foils", few.foils))
        }
        return pandas.DataFrame(
            {
                "clean": [shown(tokenizer, prompt) for prompt in few.clean],
                "corrupted": [shown(tokenizer, prompt) for prompt in few.corrupted],
                **listed,
                "template": few.templates,
            }
        )

    def __repr__(self) -> str:
        seed = "" if self.seed is None else f", seed {self.seed}"
        part = f", {self.part}" if self.part else ""
        dropped = f", dropped {dict(self.dropped)}" if self.dropped else ""
        return f"Task({self.name!r}, {self.pairs!r}, {self.metric.name}{seed}{part}{dropped})"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>{self.table(n=3).to_html(escape=True, index=False)}"


def draw_task(
    name: str,
    recipe: Recipe,
    n: int,
    seed: int,
    *,
    metric: Metric,
    description: str,
    tokenizer: Any,
    cluster_by: ClusterBy | None = None,
) -> Task:
    """Draw a task's pairs from its recipe; raises TaskError when n distinct ones cannot be found."""
    pairs, dropped = draw(recipe, n, seed)
    return Task(
        name=name,
        pairs=pairs,
        metric=metric,
        description=description,
        seed=seed,
        dropped=dropped,
        cluster_by=cluster_by,
        recipe=recipe,
        tokenizer=tokenizer,
    )
