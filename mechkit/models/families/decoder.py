"""The family of mechkit's own small decoder."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from ..decoder import Decoder, DecoderAttention, DecoderLayer, DecoderMLP
from ..sites import Site
from .base import AttentionTap, Family, Projection


class DecoderFamily(Family):
    """`mechkit.models.Decoder`."""

    name: ClassVar[str] = "mechkit decoder"
    module: Decoder

    def __init__(self, module: Decoder):
        super().__init__(module)
        config = module.config
        self.causal = config.causal
        self.n_heads = self.n_kv_heads = config.n_heads
        self.d_model, self.d_head, self.d_mlp = config.d_model, config.head_size, config.d_mlp or 0
        self.d_vocab, self.n_context = config.d_vocab, config.n_context

    @property
    def layers(self) -> nn.ModuleList:
        """The blocks."""
        return self.module.layers

    @property
    def embedding(self) -> nn.Module:
        """The token embedding."""
        return self.module.embed

    @property
    def final_norm(self) -> nn.Module:
        """The norm before the unembedding; an identity where there is none."""
        return self.module.final_norm

    @property
    def unembedding(self) -> Any:
        """Residual stream to logits."""
        return self.module.unembed

    def _layer(self, layer: int) -> DecoderLayer:
        found = self.layers[layer]
        assert isinstance(found, DecoderLayer)
        return found

    def _attention(self, layer: int) -> DecoderAttention:
        return self._layer(layer).attention

    def _mlp(self, layer: int) -> DecoderMLP:
        mlp = self._layer(layer).mlp
        assert mlp is not None
        return mlp

    def projection(self, layer: int, which: Projection) -> tuple[nn.Module, slice | None]:
        """One linear layer each for q, k and v."""
        return getattr(self._attention(layer), f"{which}_proj"), None

    def output_projection(self, layer: int) -> nn.Module:
        """z to what attention writes."""
        return self._attention(layer).o_proj

    def mlp_modules(self, layer: int) -> tuple[nn.Module, nn.Module, nn.Module]:
        """Up projection, down projection, whole MLP."""
        mlp = self._mlp(layer)
        return mlp.up_proj, mlp.down_proj, mlp

    @contextmanager
    def tapped_attention(self, layers: frozenset[int], tap: AttentionTap) -> Iterator[None]:
        """While open, scores and pattern of these layers pass through `tap`."""

        def hook(site: Site) -> Any:
            return lambda _module, _inputs, output: tap(site, output)

        with ExitStack() as stack:
            for layer in layers:
                attention = self._attention(layer)
                for name, module in (("attn_scores", attention.scores), ("pattern", attention.pattern)):
                    stack.callback(module.register_forward_hook(hook(Site(name, layer))).remove)
            yield

    def forward(self, tokens: Int[Tensor, "batch pos"], lengths: Int[Tensor, "batch"]) -> Tensor:
        """Logits of right-padded tokens."""
        return self.module(tokens, lengths)

    def attention_norm(self, layer: int, residual: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """The norm before attention."""
        return self._layer(layer).attention_norm(residual)

    def mlp_norm(self, layer: int, residual: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """The norm before the MLP."""
        norm = self._layer(layer).mlp_norm
        assert norm is not None
        return norm(residual)

    def positional(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """Token embedding, plus the learned position where there is one."""
        x, learned = self.module.embed(tokens), self.module.position_embed
        return x if learned is None else x + learned.weight[: tokens.shape[-1]]

    def rotary_table(self, length: int) -> tuple[Tensor, Tensor] | None:
        """The decoder's own cosines and sines."""
        rotary = self.module.rotary
        return None if rotary is None else (rotary.cosine[:length], rotary.sine[:length])

    def attention_scale(self, layer: int) -> float:
        """As the configuration says."""
        return self._attention(layer).scale

    def mlp(self, layer: int, normed: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """The whole MLP."""
        return self._mlp(layer)(normed)

    def mlp_activations(
        self, layer: int, normed: Float[Tensor, "*n d_model"], pre: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Before and after the activation function."""
        mlp = self._mlp(layer)
        pre = mlp.up_proj(normed) if pre is None else pre
        return pre, mlp.activation(pre)
