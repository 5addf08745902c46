"""What Hugging Face causal language models have in common: the call, and attention whose insides can be tapped.

Hugging Face attention functions are looked up by name in the configuration. For the length of one run we put our own
there: it computes attention the plain way and hands scores and pattern to whoever asked for that layer.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ..sites import Site
from .base import AttentionTap, Family

ATTENTION_NAME = "mechkit"

_taps: ContextVar[dict[nn.Module, Callable[[str, Tensor], Tensor]] | None] = ContextVar("mechkit_taps", default=None)


class HuggingFaceFamily(Family):
    """A `...ForCausalLM` module. Its parts are found by name, so that they have no static types."""

    module: Any

    def block(self, layer: int) -> Any:
        """One of the layers."""
        return self.layers[layer]

    @property
    def config(self) -> Any:
        """The module's Hugging Face configuration."""
        return self.module.config

    def attention_module(self, layer: int) -> Any:
        """The attention submodule of a block."""
        raise NotImplementedError

    def forward(self, tokens: Int[Tensor, "batch pos"], lengths: Int[Tensor, "batch"]) -> Tensor:
        """Logits. Padding is on the right, where a causal model cannot see it, so that the mask may be all ones."""
        return self.module(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits

    @contextmanager
    def tapped_attention(self, layers: frozenset[int], tap: AttentionTap) -> Iterator[None]:
        """While open, scores and pattern of these layers pass through `tap`."""
        if not layers:
            yield
            return
        _register()
        named: dict[nn.Module, Callable[[str, Tensor], Tensor]] = {
            self.attention_module(layer): partial(_at_layer, tap, layer) for layer in layers
        }
        before = self.config._attn_implementation
        token = _taps.set(named)
        try:
            self.config._attn_implementation = ATTENTION_NAME
            yield
        finally:
            self.config._attn_implementation = before
            _taps.reset(token)


def _at_layer(tap: AttentionTap, layer: int, name: str, tensor: Tensor) -> Tensor:
    return tap(Site(name, layer), tensor)


def _register() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    AttentionInterface.register(ATTENTION_NAME, _attention)
    AttentionMaskInterface.register(ATTENTION_NAME, eager_mask)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **_: object,
) -> tuple[Tensor, Tensor]:
    """Plain attention over (batch, head, pos, d_head), with a stop for the tap at scores and at pattern."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if attention_mask is not None:
        scores = scores + attention_mask
    tap = (_taps.get() or {}).get(module)
    if tap is not None:
        scores = tap("attn_scores", scores)
    pattern = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(query.dtype)
    if tap is not None:
        pattern = tap("pattern", pattern)
    return (pattern @ value).transpose(1, 2).contiguous(), pattern
