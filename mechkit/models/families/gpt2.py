"""The GPT-2 family: LayerNorm, learned positions, q, k and v fused in one projection."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .base import Projection
from .hugging_face import HuggingFaceFamily


class GPT2Family(HuggingFaceFamily):
    """`GPT2LMHeadModel`."""

    name = "GPT-2"

    LAYERS, EMBEDDING, FINAL_NORM = "transformer.h", "transformer.wte", "transformer.ln_f"
    ATTENTION, ATTENTION_NORM, MLP_NORM = "attn", "ln_1", "ln_2"
    OUTPUT_PROJECTION, MLP_IN, MLP_OUT = "c_proj", "c_fc", "c_proj"

    def __init__(self, module: Any):
        super().__init__(module)
        config = self.config
        self.n_heads = self.n_kv_heads = config.n_head
        self.d_model, self.d_head, self.d_vocab = config.n_embd, config.n_embd // config.n_head, config.vocab_size
        self.d_mlp = config.n_inner or 4 * config.n_embd
        self.n_context = config.n_positions

    def projection(self, layer: int, which: Projection) -> tuple[nn.Module, slice | None]:
        """A third of the fused projection each."""
        start = "qkv".index(which) * self.d_model
        return self.attention(layer).c_attn, slice(start, start + self.d_model)

    def project_all(
        self, layer: int, normed: Float[Tensor, "*n d_model"]
    ) -> tuple[Float[Tensor, "*n head d_head"], Float[Tensor, "*n kv d_head"], Float[Tensor, "*n kv d_head"]]:
        """One product for all three."""
        fused = self.attention(layer).c_attn(normed)
        q, k, v = fused.unflatten(-1, (3, self.n_heads, self.d_head)).unbind(-3)
        return q, k, v

    def positional(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """Token embedding plus learned position."""
        positions = torch.arange(tokens.shape[-1], device=tokens.device)
        return self.embedding(tokens) + self.module.transformer.wpe(positions)

    def mlp(self, layer: int, normed: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """The whole MLP, piece by piece for the sake of its activation."""
        _, post = self.mlp_activations(layer, normed)
        return self.mlp_module(layer).c_proj(post)

    def mlp_activations(
        self, layer: int, normed: Float[Tensor, "*n d_model"], pre: Float[Tensor, "*n d_mlp"] | None = None
    ) -> tuple[Float[Tensor, "*n d_mlp"], Float[Tensor, "*n d_mlp"]]:
        """Before and after the activation function."""
        mlp = self.mlp_module(layer)
        pre = mlp.c_fc(normed) if pre is None else pre
        if type(mlp.act).__name__ == "NewGELUActivation":  # the same function in one pass over memory, not in eight
            return pre, nn.functional.gelu(pre, approximate="tanh")
        return pre, mlp.act(pre)

    def result_weight(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """Hugging Face's Conv1D keeps its weight as (in, out)."""
        return self.attention(layer).c_proj.weight.unflatten(0, (-1, self.d_head))
