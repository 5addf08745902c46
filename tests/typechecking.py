"""The run-time type checker that every function of mechkit is wrapped in while the tests run."""

from collections.abc import Callable
from typing import Any

from beartype import beartype


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """beartype, but for hints that name Self, which it understands only where it decorates the whole class."""
    hints = getattr(function, "__annotations__", {})
    if any("typing.Self" in repr(hint) for hint in hints.values()):
        function.__annotations__ = {name: hint for name, hint in hints.items() if "typing.Self" not in repr(hint)}
    return beartype(function)
