"""The Llama-like family: Llama, SmolLM2, Qwen2, Mistral. RMSNorm, rotary positions, grouped queries, gated MLP."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .base import Projection
from .hugging_face import HuggingFaceFamily


class LlamaFamily(HuggingFaceFamily):
    """`LlamaForCausalLM` and the modules built like it."""

    name: ClassVar[str] = "Llama-like"
    gated = True

    def __init__(self, module: nn.Module):
        super().__init__(module)
        config = self.config
        self.n_heads, self.n_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.d_model, self.d_mlp, self.d_vocab = config.hidden_size, config.intermediate_size, config.vocab_size
        self.d_head = getattr(config, "head_dim", None) or self.d_model // self.n_heads
        self.n_context = config.max_position_embeddings

    @property
    def layers(self) -> nn.ModuleList:
        """The blocks."""
        return self.module.model.layers

    @property
    def embedding(self) -> nn.Module:
        """The token embedding."""
        return self.module.model.embed_tokens

    @property
    def final_norm(self) -> nn.Module:
        """The norm before the unembedding."""
        return self.module.model.norm

    @property
    def unembedding(self) -> nn.Linear:
        """Residual stream to logits."""
        return self.module.lm_head

    def attention_module(self, layer: int) -> Any:
        """The attention submodule of a block."""
        return self.block(layer).self_attn

    def projection(self, layer: int, which: Projection) -> tuple[nn.Module, slice | None]:
        """One linear layer each for q, k and v."""
        return getattr(self.attention_module(layer), f"{which}_proj"), None

    def output_projection(self, layer: int) -> nn.Module:
        """z to what attention writes."""
        return self.attention_module(layer).o_proj

    def mlp_modules(self, layer: int) -> tuple[nn.Module, nn.Module, nn.Module]:
        """Gate, down projection, whole MLP."""
        mlp = self.block(layer).mlp
        return mlp.gate_proj, mlp.down_proj, mlp

    def attention_norm(self, layer: int, residual: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """The norm before attention."""
        return self.block(layer).input_layernorm(residual)

    def mlp_norm(self, layer: int, residual: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """The norm before the MLP."""
        return self.block(layer).post_attention_layernorm(residual)

    def positional(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """Rotary positions add nothing here."""
        return self.embedding(tokens)

    def rotary_table(self, length: int) -> tuple[Tensor, Tensor]:
        """The model's own cosines and sines."""
        like = self.unembedding.weight
        positions = torch.arange(length, device=like.device)[None]
        cosine, sine = self.module.model.rotary_emb(like[:1], positions)
        return cosine[0], sine[0]

    def attention_scale(self, layer: int) -> float:
        """1 / sqrt(d_head), as the module has it."""
        return self.attention_module(layer).scaling

    def attention_window(self, layer: int) -> int | None:
        """Mistral's window is for all layers, Qwen2's for those of the sliding type."""
        types = getattr(self.config, "layer_types", None)
        if types is not None and types[layer] != "sliding_attention":
            return None
        return getattr(self.config, "sliding_window", None)

    def mlp(self, layer: int, normed: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """The whole MLP."""
        return self.block(layer).mlp(normed)

    def mlp_activations(
        self, layer: int, normed: Float[Tensor, "*n d_model"], pre: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The gate's input, and activation(gate) × up."""
        mlp = self.block(layer).mlp
        pre = mlp.gate_proj(normed) if pre is None else pre
        return pre, mlp.act_fn(pre) * mlp.up_proj(normed)
