"""What an architecture family must say: where its sites are, and the pieces that its blocks are made of.

A family is bound to one module in memory and never changes it. The first half (*places*) serves reading and editing
during the model's own forward pass; the second half (*pieces*) lets replay recompute a part of the model alone. Pieces
call the module's own submodules, so that the arithmetic stays the model's own.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...errors import SiteError
from ..sites import AXES, HEAD_SITES, Site

Projection = Literal["q", "k", "v"]
PROJECTIONS: tuple[Projection, ...] = ("q", "k", "v")
AttentionTap = Callable[[Site, Tensor], Tensor]


@dataclass(frozen=True)
class Place:
    """A site's tensor in the module tree: an input or output of a submodule, maybe some of its columns, as heads."""

    module: nn.Module
    side: Literal["input", "output"]
    columns: slice | None = None
    d_head: int | None = None

    def take(self, tensor: Tensor) -> Tensor:
        """The site's activation, as a view of the submodule's tensor."""
        part = tensor if self.columns is None else tensor[..., self.columns]
        return part if self.d_head is None else part.unflatten(-1, (-1, self.d_head))

    def put(self, tensor: Tensor, activation: Tensor) -> Tensor:
        """The submodule's tensor with the site's activation in its place; a new tensor where columns are shared."""
        part = activation if self.d_head is None else activation.flatten(-2)
        if self.columns is None:
            return part
        start, stop, _ = self.columns.indices(tensor.shape[-1])
        return torch.cat((tensor[..., :start], part, tensor[..., stop:]), dim=-1)


def is_plain(module: nn.Module) -> bool:
    """Whether a projection is its weight and bias and nothing else: no adapter around it, no hook on it."""
    bare = type(module).__name__ in ("Linear", "Conv1D") and not hasattr(module, "parametrizations")
    return bare and not (module._forward_hooks or module._forward_pre_hooks)


class Family(ABC):
    """One architecture, bound to one module."""

    name: ClassVar[str]
    """How messages call the family."""

    causal: bool = True
    gated: bool = False
    """Whether the MLP multiplies the activation by a second projection."""

    def __init__(self, module: nn.Module):
        self.module = module
        self.n_layers = len(self.layers)

    # -- sizes -----------------------------------------------------------------------------------------------------

    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    """0 where there is no MLP."""
    d_vocab: int
    n_context: int

    # -- places ----------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def layers(self) -> nn.ModuleList:
        """The blocks."""

    @property
    @abstractmethod
    def embedding(self) -> nn.Module:
        """The token embedding."""

    @property
    @abstractmethod
    def final_norm(self) -> nn.Module:
        """The norm before the unembedding."""

    @property
    @abstractmethod
    def unembedding(self) -> Any:
        """Residual stream to logits."""

    @abstractmethod
    def projection(self, layer: int, which: Projection) -> tuple[nn.Module, slice | None]:
        """The submodule whose output holds q, k or v, and in which columns."""

    @abstractmethod
    def output_projection(self, layer: int) -> nn.Module:
        """The submodule that maps z to what attention writes."""

    def attention_output_module(self, layer: int) -> nn.Module:
        """The submodule whose output is added to the residual stream; the output projection unless a norm follows."""
        return self.output_projection(layer)

    @abstractmethod
    def mlp_modules(self, layer: int) -> tuple[nn.Module, nn.Module, nn.Module]:
        """The submodules whose output is mlp_pre, whose input is mlp_post, and whose output is mlp_out."""

    @abstractmethod
    def tapped_attention(self, layers: frozenset[int], tap: AttentionTap) -> AbstractContextManager[None]:
        """While open, scores and pattern of these layers pass through `tap`; everything is restored at the end."""

    @abstractmethod
    def forward(self, tokens: Int[Tensor, "batch pos"], lengths: Int[Tensor, "batch"]) -> Tensor:
        """The model's own logits for right-padded tokens."""

    def place(self, site: Site) -> Place:
        """Where an ordinary site is. Errors: SiteError where this model does not have it."""
        layer = -1 if site.layer is None else site.layer
        match site.name:
            case "embed":
                return Place(self.embedding, "output")
            case "ln_final":
                return Place(self.final_norm, "output")
            case "resid_pre":
                return Place(self.layers[layer], "input")
            case "resid_post":
                return Place(self.layers[layer], "output")
            case "q" | "k" | "v":
                return Place(*self._split(*self.projection(layer, site.name)), self.d_head)
            case "z":
                return Place(self.output_projection(layer), "input", None, self.d_head)
            case "attn_out":
                return Place(self.attention_output_module(layer), "output")
            case "mlp_pre" | "mlp_post" | "mlp_out":
                pre, post, out = self.mlp_modules(layer)
                return {
                    "mlp_pre": Place(pre, "output"),
                    "mlp_post": Place(post, "input"),
                    "mlp_out": Place(out, "output"),
                }[site.name]
        raise SiteError(f"site {site} has no single place in the {self.name} family")

    @staticmethod
    def _split(module: nn.Module, columns: slice | None) -> tuple[nn.Module, Literal["output"], slice | None]:
        return module, "output", columns

    def check(self, site: Site) -> Site:
        """The site, if this model has it. Errors: SiteError that says what there is."""
        if site.layer is not None and site.layer >= self.n_layers:
            raise SiteError(f"site {site}: the model has layers 0 to {self.n_layers - 1}")
        if site.name.startswith("mlp_") and not self.d_mlp:
            raise SiteError(f"site {site}: this model has no MLPs, it is attention-only")
        heads = self.n_kv_heads if site.name in ("k", "v") else self.n_heads
        if site.head is not None and site.name in HEAD_SITES and site.head >= heads:
            grouped = ", one per key/value group" if heads < self.n_heads else ""
            raise SiteError(f"site {site}: there are heads 0 to {heads - 1} at {site.name}{grouped}")
        return site

    def shape(self, site: Site, batch: int, length: int) -> tuple[int, ...]:
        """The shape of the whole site's activation."""
        heads = self.n_kv_heads if site.name in ("k", "v") else self.n_heads
        feature = {
            "attn_scores": length,
            "pattern": length,
            "logits": self.d_vocab,
            "mlp_pre": self.d_mlp,
            "mlp_post": self.d_mlp,
        } | dict.fromkeys(("q", "k", "v", "z"), self.d_head)
        sizes = {
            "batch": batch,
            "position": length,
            "head": heads,
            "feature": feature.get(site.name, self.d_model),
        }
        return tuple(sizes[axis] for axis in AXES[site.name])

    # -- pieces ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def attention_norm(self, layer: int, residual: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """The norm before attention."""

    @abstractmethod
    def mlp_norm(self, layer: int, residual: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """The norm before the MLP."""

    @abstractmethod
    def positional(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """Tokens to the residual stream before layer 0."""

    def rotary_table(self, length: int) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines [pos, d_head] for `length` positions, or None without rotary positions."""
        return None

    def project(
        self, layer: int, normed: Float[Tensor, "*n d_model"], which: Projection
    ) -> Float[Tensor, "*n head d_head"]:
        """q, k or v before rotary positions."""
        module, columns = self.projection(layer, which)
        out = module(normed)
        return (out if columns is None else out[..., columns]).unflatten(-1, (-1, self.d_head))

    def project_all(
        self, layer: int, normed: Float[Tensor, "*n d_model"]
    ) -> tuple[Float[Tensor, "*n head d_head"], Float[Tensor, "*n kv d_head"], Float[Tensor, "*n kv d_head"]]:
        """q, k and v; a family with one fused projection overrides this."""
        q, k, v = (self.project(layer, normed, which) for which in PROJECTIONS)
        return q, k, v

    @abstractmethod
    def attention_scale(self, layer: int) -> float:
        """What q · k is multiplied by."""

    def attention_window(self, layer: int) -> int | None:
        """How many keys back a query sees, itself included; None means all."""
        return None

    def attention_output(self, layer: int, z: Float[Tensor, "*n head d_head"]) -> Float[Tensor, "*n d_model"]:
        """z to what attention writes."""
        return self.output_projection(layer)(z.flatten(-2))

    @abstractmethod
    def mlp(self, layer: int, normed: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """What the MLP writes, from its normalised input."""

    def mlp_down(self, layer: int, post: Float[Tensor, "*n d_mlp"]) -> Float[Tensor, "*n d_model"]:
        """mlp_post to what the MLP writes."""
        return self.mlp_modules(layer)[1](post)

    @abstractmethod
    def mlp_activations(
        self, layer: int, normed: Float[Tensor, "*n d_model"], pre: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """mlp_pre and mlp_post; with `pre` given, mlp_post is computed from it."""

    def logits(self, residual: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_vocab"]:
        """Final residual stream to logits."""
        return self.unembedding(self.final_norm(residual))

    def logits_at(
        self, residual: Float[Tensor, "*cells n d_model"], columns: Int[Tensor, "n k"]
    ) -> Float[Tensor, "*cells n k"]:
        """Logits of a few vocabulary entries only; each prompt has its own."""
        if not is_plain(self.unembedding):
            chosen_by = columns.expand(*residual.shape[:-1], -1)
            return self.logits(residual).gather(-1, chosen_by)
        normed = self.final_norm(residual)
        chosen = torch.einsum("...nd,nkd->...nk", normed, self.unembedding.weight[columns])
        return chosen if self.unembedding.bias is None else chosen + self.unembedding.bias[columns]

    def result_weight(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """The output projection per head, so that result = z · this."""
        weight = self.output_projection(layer).weight
        assert isinstance(weight, Tensor)
        return weight.mT.unflatten(0, (-1, self.d_head))
