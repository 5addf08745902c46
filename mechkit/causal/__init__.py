"""Interventions and their effects."""

from .patching import patch

__all__ = ["patch"]
