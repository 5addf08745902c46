"""The GPT-2 family: LayerNorm, learned positions, q, k and v fused in one projection."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .base import Projection
from .hugging_face import HuggingFaceFamily


class GPT2Family(HuggingFaceFamily):
    """`GPT2LMHeadModel`."""

    name: ClassVar[str] = "GPT-2"

    def __init__(self, module: nn.Module):
        super().__init__(module)
        config = self.config
        self.n_heads = self.n_kv_heads = config.n_head
        self.d_model, self.d_head, self.d_vocab = config.n_embd, config.n_embd // config.n_head, config.vocab_size
        self.d_mlp = config.n_inner or 4 * config.n_embd
        self.n_context = config.n_positions

    @property
    def layers(self) -> nn.ModuleList:
        """The blocks."""
        return self.module.transformer.h

    @property
    def embedding(self) -> nn.Module:
        """The token embedding."""
        return self.module.transformer.wte

    @property
    def final_norm(self) -> nn.Module:
        """The norm before the unembedding."""
        return self.module.transformer.ln_f

    @property
    def unembedding(self) -> nn.Linear:
        """Residual stream to logits."""
        return self.module.lm_head

    def attention_module(self, layer: int) -> Any:
        """The attention submodule of a block."""
        return self.block(layer).attn

    def projection(self, layer: int, which: Projection) -> tuple[nn.Module, slice | None]:
        """A third of the fused projection each."""
        start = "qkv".index(which) * self.d_model
        return self.attention_module(layer).c_attn, slice(start, start + self.d_model)

    def project_all(self, layer: int, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One product for all three."""
        fused = self.attention_module(layer).c_attn(normed)
        q, k, v = fused.unflatten(-1, (3, self.n_heads, self.d_head)).unbind(-3)
        return q, k, v

    def output_projection(self, layer: int) -> nn.Module:
        """z to what attention writes."""
        return self.attention_module(layer).c_proj

    def mlp_modules(self, layer: int) -> tuple[nn.Module, nn.Module, nn.Module]:
        """Up projection, down projection, whole MLP."""
        mlp = self.block(layer).mlp
        return mlp.c_fc, mlp.c_proj, mlp

    def attention_norm(self, layer: int, residual: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """The norm before attention."""
        return self.block(layer).ln_1(residual)

    def mlp_norm(self, layer: int, residual: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """The norm before the MLP."""
        return self.block(layer).ln_2(residual)

    def positional(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """Token embedding plus learned position."""
        positions = torch.arange(tokens.shape[-1], device=tokens.device)
        return self.embedding(tokens) + self.module.transformer.wpe(positions)

    def attention_scale(self, layer: int) -> float:
        """As the module has it; some GPT-2 variants also divide by the layer's number."""
        return self.attention_module(layer).scaling

    def mlp(self, layer: int, normed: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """The whole MLP."""
        return self.block(layer).mlp(normed)

    def mlp_activations(
        self, layer: int, normed: Float[Tensor, "*n d_model"], pre: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Before and after the activation function."""
        mlp = self.block(layer).mlp
        pre = mlp.c_fc(normed) if pre is None else pre
        return pre, mlp.act(pre)

    def result_weight(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """Hugging Face's Conv1D keeps its weight as (in, out)."""
        weight = self.output_projection(layer).weight
        assert isinstance(weight, Tensor)
        return weight.unflatten(0, (-1, self.d_head))
