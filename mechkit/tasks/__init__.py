"""Behaviours: pairs of prompts that differ in what matters, and the metric that tells the difference.

`clean` shows the behaviour, `corrupted` does not; both have equally many tokens. Tasks of words take a model with a
tokenizer, or a tokenizer alone; prompts begin with the beginning-of-text token where the tokenizer does so by itself.
"""

import difflib
from collections.abc import Callable

from ..errors import TaskError
from . import metrics
from .files import from_jsonl, from_table
from .given import from_tokens
from .indirect_object import ioi
from .metrics import Metric
from .pairs import Pairs, concatenate
from .repeated_tokens import induction
from .task import Task
from .year_comparison import greater_than

__all__ = [
    "TASKS",
    "Metric",
    "Pairs",
    "Task",
    "concatenate",
    "describe",
    "from_jsonl",
    "from_table",
    "from_tokens",
    "get",
    "greater_than",
    "induction",
    "ioi",
    "metrics",
]

TASKS: dict[str, Callable[..., Task]] = {"ioi": ioi, "greater_than": greater_than, "induction": induction}
"""Tasks that are drawn by name: each is called as `TASKS[name](model, n=…, seed=…)`."""


def get(name: str) -> Callable[..., Task]:
    """Find a task by name; raises TaskError with the known names when there is none."""
    if name in TASKS:
        return TASKS[name]
    near = difflib.get_close_matches(name, TASKS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    raise TaskError(f"tasks.get: no task named {name!r}{hint} Known: {', '.join(TASKS)}")


def describe(name: str) -> str:
    """One line on what a task measures."""
    return (get(name).__doc__ or "").partition("\n")[0]
