"""mechkit: locate circuits in language models, verify them causally, follow them across training.

    import mechkit as mk

    model = mk.load("smollm2-135m-instruct")
    task = mk.tasks.ioi(model, n=32, seed=0)
    mk.patch(model, task, sites="resid_pre", over=("layer", "position")).plot()

Everything is loaded when first used, so that importing the package costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import causal, errors, figures, models, pages, results, stats, tasks, training
    from .causal import patch
    from .models import Decoder, DecoderConfig, Edit, HookedModel, Site, load
    from .results import Result

__version__ = "0.1.0"

_MODULES = ("causal", "errors", "figures", "models", "pages", "results", "stats", "tasks", "training")
_HOMES = {
    "Decoder": "models",
    "DecoderConfig": "models",
    "Edit": "models",
    "HookedModel": "models",
    "Result": "results",
    "Site": "models",
    "load": "models",
    "patch": "causal",
}

__all__ = [
    "Decoder",
    "DecoderConfig",
    "Edit",
    "HookedModel",
    "Result",
    "Site",
    "causal",
    "errors",
    "figures",
    "load",
    "models",
    "pages",
    "patch",
    "results",
    "stats",
    "tasks",
    "training",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module 'mechkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
