import inspect
import pickle

import pytest
import task_tokenizers
import torch

from mechkit import tasks
from mechkit.errors import MetricError, TaskError
from mechkit.tasks import TASKS, Task, describe, from_tokens, greater_than, induction, ioi, metrics

TOKENIZER = task_tokenizers.make()


def test_redraw_gives_fresh_pairs_of_the_same_kind() -> None:
    task = ioi(TOKENIZER, 30, order="BABA", corruption="abc").with_metric("rank")
    fresh = task.redraw(4)
    assert (len(fresh), fresh.seed, fresh.metric.name) == (30, 4, "rank")
    assert not set(fresh.pairs.clean) & set(task.pairs.clean)
    assert bool((fresh.pairs.positions["S1"] < fresh.pairs.positions["IO"]).all())
    assert fresh.pairs.clean == ioi(TOKENIZER, 30, 4, order="BABA", corruption="abc").pairs.clean
    assert len(task.redraw(4, 7)) == 7


def test_given_pairs_cannot_be_redrawn() -> None:
    with pytest.raises(TaskError, match="given, not drawn"):
        from_tokens([[1]], [[2]], [3]).redraw(1)


def test_with_metric_takes_names_metrics_and_functions() -> None:
    task = induction(64, 4)
    assert task.with_metric("rank").metric is metrics.rank
    assert task.with_metric(metrics.cross_entropy).metric is metrics.cross_entropy
    assert task.with_metric(lambda logits, pairs: logits[:, 0]).metric.name == "<lambda>"
    assert task.with_metric("rank").pairs is task.pairs
    with pytest.raises(MetricError, match="no metric named 'nothing'"):
        task.with_metric("nothing")


def test_clusters_are_templates_where_there_are_eight() -> None:
    task = ioi(TOKENIZER, 40)
    assert (task.clustered_by, task.clusters) == ("template", task.pairs.templates)
    few = ioi(TOKENIZER, 40, templates=7)
    assert few.clustered_by == "words"
    assert few.clusters == tuple(used[0] for used in few.pairs.words)
    io = [TOKENIZER.convert_ids_to_tokens(int(row)) for row in few.pairs.answers[:, 0]]
    assert [f" {label}" for label in few.clusters] == io
    assert ioi(TOKENIZER, 5).clustered_by == "pair"
    assert induction(64, 100).clusters == tuple(str(number) for number in range(100))


def test_clusters_can_be_chosen() -> None:
    task = greater_than(TOKENIZER, 30).with_clusters("words")
    assert task.clusters == tuple(used[0] for used in task.pairs.words)
    assert task.split()[0].clustered_by == "words"
    assert task.with_clusters(None).clustered_by == "template"


def test_indexing_takes_pairs() -> None:
    task = ioi(TOKENIZER, 10)
    assert task[:3].pairs.clean == task.pairs.clean[:3]
    assert len(task[torch.tensor([1, 5])]) == 2
    assert task[[0]].metric is task.metric


def test_bad_splits_are_refused() -> None:
    task = ioi(TOKENIZER, 10)
    for fraction in (0.0, 1.0, -0.5, 1.5, float("nan")):
        with pytest.raises(TaskError, match="between 0 and 1"):
            task.split(fraction)
    with pytest.raises(TaskError, match="by='name'"):
        inspect.unwrap(Task.split)(task, by="name")
    with pytest.raises(TaskError, match="seed"):
        task.split(seed=-1)


def test_table_shows_text_or_ids() -> None:
    table = ioi(TOKENIZER, 8).table(n=2)
    assert list(table.columns) == ["clean", "corrupted", "answers", "foils", "template"]
    assert len(table) == 2
    assert " and " in table["clean"][0].replace("  ", " ")
    bare = from_tokens([[1, 2]], [[1, 3]], [[4, 5]], [6])
    assert bare.table().iloc[0].tolist()[:4] == ["1 2", "1 3", ["4", "5"], ["6"]]
    assert "<unk>" in bare.table(TOKENIZER)["clean"][0]


def test_repr_says_what_one_must_know() -> None:
    task = ioi(task_tokenizers.make(without=(" Mary",)), 8, seed=3)
    said = repr(task.split()[1])
    for part in (
        "'ioi'",
        "4 pairs",
        "S1+1",
        "logit_difference",
        "seed 3",
        "second of split",
        "'name left out: not a single token': 1",
    ):
        assert part in said
    assert "seed" not in repr(from_tokens([[1]], [[2]], [3]))


def test_html_escapes_tokens() -> None:
    tokenizer = task_tokenizers.build(["<s>", "<unk>", "<b>", "x", "y"], r"<b>|\w")
    task = from_tokens(["<b>x"], ["<b>y"], ["x"], ["y"], model=tokenizer)
    assert "<b>" not in task._repr_html_()
    assert "&lt;b&gt;" in task._repr_html_()


def test_provenance_is_plain() -> None:
    first, _ = ioi(TOKENIZER, 20, seed=2).split(by="template")
    assert first.provenance == {
        "task": "ioi",
        "task_description": "indirect object identification, order both, corruption swap",
        "task_part": "first of split(0.5, by='template', seed=0)",
        "seed": 2,
        "metric": "logit_difference",
        "clusters": "template",
    }


def test_tasks_can_be_pickled_and_still_redrawn() -> None:
    for task in (ioi(TOKENIZER, 6), induction(64, 6).split()[0]):
        copy = pickle.loads(pickle.dumps(task))
        assert copy.pairs.clean == task.pairs.clean
        assert copy.redraw(3).pairs.clean == task.redraw(3).pairs.clean


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_named_task_is_called_alike_and_described_in_a_line(name: str) -> None:
    task = tasks.get(name)(TOKENIZER, n=5, seed=1)
    assert (task.name, len(task), task.seed) == (name, 5, 1)
    assert 20 < len(describe(name)) < 120 and describe(name).endswith(".")


def test_unknown_names_get_the_known_ones() -> None:
    with pytest.raises(TaskError, match=r"did you mean 'greater_than'.*induction"):
        tasks.get("greater-than")
    with pytest.raises(TaskError, match="Known: ioi"):
        describe("zzz")
