"""What Hugging Face causal language models have in common: the call, and attention whose insides can be tapped.

Hugging Face attention functions are looked up by name in the configuration. For the length of one run we put our own
there: it computes attention the plain way and hands scores and pattern to whoever asked for that layer.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..sites import Site
from .base import AttentionTap, Family

ATTENTION_NAME = "mechkit"

_taps: ContextVar[dict[nn.Module, Callable[[str, Tensor], Tensor]] | None] = ContextVar("mechkit_taps", default=None)


class HuggingFaceFamily(Family):
    """A `...ForCausalLM` module. A family names its parts; they are found by these names, without static types."""

    module: Any

    # dotted names from the module
    LAYERS: ClassVar[str]
    EMBEDDING: ClassVar[str]
    FINAL_NORM: ClassVar[str]
    UNEMBEDDING: ClassVar[str] = "lm_head"
    # names in a block
    ATTENTION: ClassVar[str]
    ATTENTION_NORM: ClassVar[str]
    MLP: ClassVar[str] = "mlp"
    MLP_NORM: ClassVar[str]
    # names in its attention and its MLP
    OUTPUT_PROJECTION: ClassVar[str]
    MLP_IN: ClassVar[str]
    MLP_OUT: ClassVar[str]

    @property
    def config(self) -> Any:
        """The module's Hugging Face configuration."""
        return self.module.config

    @property
    def layers(self) -> nn.ModuleList:
        """The blocks."""
        return self.module.get_submodule(self.LAYERS)

    @property
    def embedding(self) -> nn.Module:
        """The token embedding."""
        return self.module.get_submodule(self.EMBEDDING)

    @property
    def final_norm(self) -> nn.Module:
        """The norm before the unembedding."""
        return self.module.get_submodule(self.FINAL_NORM)

    @property
    def unembedding(self) -> Any:
        """Residual stream to logits."""
        return self.module.get_submodule(self.UNEMBEDDING)

    def attention(self, layer: int) -> Any:
        """The attention submodule of a block."""
        return getattr(self.layers[layer], self.ATTENTION)

    def mlp_module(self, layer: int) -> Any:
        """The MLP of a block."""
        return getattr(self.layers[layer], self.MLP)

    def output_projection(self, layer: int) -> nn.Module:
        """z to what attention writes."""
        return getattr(self.attention(layer), self.OUTPUT_PROJECTION)

    def mlp_modules(self, layer: int) -> tuple[nn.Module, nn.Module, nn.Module]:
        """The projection into the activation, the one out, and the whole MLP."""
        mlp = self.mlp_module(layer)
        return getattr(mlp, self.MLP_IN), getattr(mlp, self.MLP_OUT), mlp

    def attention_norm(self, layer: int, residual: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """The norm before attention."""
        return getattr(self.layers[layer], self.ATTENTION_NORM)(residual)

    def mlp_norm(self, layer: int, residual: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """The norm before the MLP."""
        return getattr(self.layers[layer], self.MLP_NORM)(residual)

    def mlp(self, layer: int, normed: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """The whole MLP."""
        return self.mlp_module(layer)(normed)

    def attention_scale(self, layer: int) -> float:
        """As the attention module has it."""
        return self.attention(layer).scaling

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
            self.attention(layer): partial(_at_layer, tap, layer) for layer in layers
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
