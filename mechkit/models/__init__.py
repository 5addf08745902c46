"""Hooked-model wrappers: the only room that knows torch hooks and Hugging Face's modules, and the shared nouns."""

from .decoder import Decoder, DecoderConfig
from .edits import Edit, load_edits, save_edits
from .hooked import HookedModel
from .loading import load
from .runs import Gradients, Run
from .sites import Site
from .zoo import known_models

__all__ = [
    "Decoder",
    "DecoderConfig",
    "Edit",
    "Gradients",
    "HookedModel",
    "Run",
    "Site",
    "known_models",
    "load",
    "load_edits",
    "save_edits",
]
