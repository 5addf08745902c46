"""The Llama-like family: Llama, SmolLM2, Qwen2, Mistral. RMSNorm, rotary positions, grouped queries, gated MLP."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .base import Projection
from .hugging_face import HuggingFaceFamily


class LlamaFamily(HuggingFaceFamily):
    """`LlamaForCausalLM` and the modules built like it."""

    name = "Llama-like"
    gated = True

    LAYERS, EMBEDDING, FINAL_NORM = "model.layers", "model.embed_tokens", "model.norm"
    ATTENTION, ATTENTION_NORM, MLP_NORM = "self_attn", "input_layernorm", "post_attention_layernorm"
    OUTPUT_PROJECTION, MLP_IN, MLP_OUT = "o_proj", "gate_proj", "down_proj"

    def __init__(self, module: Any):
        super().__init__(module)
        config = self.config
        self.n_heads, self.n_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.d_model, self.d_mlp, self.d_vocab = config.hidden_size, config.intermediate_size, config.vocab_size
        self.d_head = getattr(config, "head_dim", None) or self.d_model // self.n_heads
        self.n_context = config.max_position_embeddings

    def projection(self, layer: int, which: Projection) -> tuple[nn.Module, slice | None]:
        """One linear layer each for q, k and v."""
        return getattr(self.attention(layer), f"{which}_proj"), None

    def positional(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """Rotary positions add nothing here."""
        return self.embedding(tokens)

    def rotary_table(self, length: int) -> tuple[Tensor, Tensor]:
        """The model's own cosines and sines."""
        like = self.unembedding.weight
        cosine, sine = self.module.model.rotary_emb(like[:1], torch.arange(length, device=like.device)[None])
        return cosine[0], sine[0]

    def attention_window(self, layer: int) -> int | None:
        """Mistral's window is for all layers, Qwen2's for those of the sliding type."""
        types = getattr(self.config, "layer_types", None)
        if types is not None and types[layer] != "sliding_attention":
            return None
        return getattr(self.config, "sliding_window", None)

    def mlp_activations(
        self, layer: int, normed: Float[Tensor, "*n d_model"], pre: Float[Tensor, "*n d_mlp"] | None = None
    ) -> tuple[Float[Tensor, "*n d_mlp"], Float[Tensor, "*n d_mlp"]]:
        """The gate's input, and activation(gate) × up."""
        mlp = self.mlp_module(layer)
        pre = mlp.gate_proj(normed) if pre is None else pre
        return pre, mlp.act_fn(pre) * mlp.up_proj(normed)
