"""A small decoder of our own, for settings that are trained or built by hand.

Every part that the field's idealised studies switch on or off is a field of the configuration: attention only or
with an MLP, with or without normalisation, learned, rotary or no positions, causal or bidirectional attention, the
activation function. Weights are ordinary `nn.Linear` layers, so a planted circuit is written straight into them.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .._files import replacing
from ..errors import BrokenFileError, InputError, UnsupportedArchitectureError

MODEL_TYPE = "mechkit-decoder"
"""The `model_type` in a saved decoder's config.json."""

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "identity": nn.Identity,
}


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of a `Decoder`.

    `d_mlp=None` makes it attention-only, `d_head=None` means d_model / n_heads. Rotary positions turn the halves of
    each head (Su et al. 2021, arXiv 2104.09864). Attention scores are scaled by 1 / sqrt(d_head) unless
    `attention_scale` says otherwise.
    """

    n_layers: int
    d_model: int
    n_heads: int
    d_vocab: int
    n_context: int
    d_head: int | None = None
    d_mlp: int | None = None
    normalization: Literal["layer", "rms"] | None = "layer"
    positions: Literal["learned", "rotary"] | None = "learned"
    activation: str = "gelu"
    causal: bool = True
    bias: bool = True
    attention_scale: float | None = None
    rotary_base: float = 10_000.0

    def __post_init__(self) -> None:
        sizes = ("n_layers", "d_model", "n_heads", "d_vocab", "n_context")
        optional = [name for name in ("d_head", "d_mlp") if getattr(self, name) is not None]
        for name in (*sizes, *optional):
            size = getattr(self, name)
            if not isinstance(size, int) or size < 1:
                raise InputError(f"DecoderConfig.{name}: expected a whole number from 1 up, got {size!r}")
        if self.d_head is None:
            if self.d_model % self.n_heads:
                raise InputError(
                    f"DecoderConfig: d_model {self.d_model} is not a multiple of n_heads {self.n_heads}; give d_head"
                )
            object.__setattr__(self, "d_head", self.d_model // self.n_heads)
        if self.positions == "rotary" and self.head_size % 2:
            raise InputError(f"DecoderConfig: rotary positions need an even d_head, got {self.d_head}")
        for name, value, known in (
            ("activation", self.activation, tuple(ACTIVATIONS)),
            ("normalization", self.normalization, ("layer", "rms", None)),
            ("positions", self.positions, ("learned", "rotary", None)),
        ):
            if value not in known:
                raise InputError(f"DecoderConfig.{name}: expected one of {list(known)}, got {value!r}")

    @property
    def head_size(self) -> int:
        """d_head, as an int."""
        assert self.d_head is not None
        return self.d_head


class RotaryPositions(nn.Module):
    """The cosines and sines by which queries and keys are turned."""

    def __init__(self, d_head: int, n_context: int, base: float):
        super().__init__()
        frequencies = base ** (-torch.arange(0, d_head, 2) / d_head)
        angles = torch.outer(torch.arange(n_context), frequencies).repeat(1, 2)
        self.cosine = nn.Buffer(angles.cos(), persistent=False)
        self.sine = nn.Buffer(angles.sin(), persistent=False)


def turn(
    x: Float[Tensor, "*batch pos head d_head"], cosine: Float[Tensor, "pos d_head"], sine: Float[Tensor, "pos d_head"]
) -> Float[Tensor, "*batch pos head d_head"]:
    """Rotate each head's halves by its position's angles."""
    first, second = x.chunk(2, dim=-1)
    return x * cosine[:, None, :] + torch.cat((-second, first), dim=-1) * sine[:, None, :]


class DecoderAttention(nn.Module):
    """Multi-head attention whose scores and pattern pass through modules of their own, so that hooks see them."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        width = config.n_heads * config.head_size
        self.q_proj = nn.Linear(config.d_model, width, bias=config.bias)
        self.k_proj = nn.Linear(config.d_model, width, bias=config.bias)
        self.v_proj = nn.Linear(config.d_model, width, bias=config.bias)
        self.o_proj = nn.Linear(width, config.d_model, bias=config.bias)
        self.scores = nn.Identity()
        self.pattern = nn.Identity()
        self.n_heads = config.n_heads
        scale = config.attention_scale
        self.scale = 1 / math.sqrt(config.head_size) if scale is None else scale

    def forward(
        self,
        x: Float[Tensor, "batch pos d_model"],
        blocked: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """Attend; `blocked` is True where a query may not see a key (broadcast to batch, head, query, key)."""
        q, k, v = (f(x).unflatten(-1, (self.n_heads, -1)) for f in (self.q_proj, self.k_proj, self.v_proj))
        if rotary is not None:
            q, k = turn(q, *rotary), turn(k, *rotary)
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * self.scale
        scores = self.scores(scores.masked_fill(blocked, torch.finfo(scores.dtype).min))
        pattern = self.pattern(scores.softmax(dim=-1))
        return self.o_proj(torch.einsum("bhqk,bkhd->bqhd", pattern, v).flatten(-2))


class DecoderMLP(nn.Module):
    """Up, activation, down."""

    def __init__(self, config: DecoderConfig, d_mlp: int):
        super().__init__()
        self.up_proj = nn.Linear(config.d_model, d_mlp, bias=config.bias)
        self.activation = ACTIVATIONS[config.activation]()
        self.down_proj = nn.Linear(d_mlp, config.d_model, bias=config.bias)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Apply the three in turn."""
        return self.down_proj(self.activation(self.up_proj(x)))


class DecoderLayer(nn.Module):
    """Attention, then the MLP if there is one, each added to the residual stream."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.attention_norm = _norm(config)
        self.attention = DecoderAttention(config)
        self.mlp_norm = _norm(config) if config.d_mlp else None
        self.mlp = DecoderMLP(config, config.d_mlp) if config.d_mlp else None

    def forward(
        self, x: Float[Tensor, "batch pos d_model"], blocked: Tensor, rotary: tuple[Tensor, Tensor] | None
    ) -> Float[Tensor, "batch pos d_model"]:
        """Residual in, residual out."""
        x = x + self.attention(self.attention_norm(x), blocked, rotary)
        if self.mlp is not None and self.mlp_norm is not None:
            x = x + self.mlp(self.mlp_norm(x))
        return x


class Decoder(nn.Module):
    """The whole decoder: tokens [batch, pos] to logits [batch, pos, d_vocab]."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.d_vocab, config.d_model)
        learned = config.positions == "learned"
        self.position_embed = nn.Embedding(config.n_context, config.d_model) if learned else None
        rotary = config.positions == "rotary"
        self.rotary = RotaryPositions(config.head_size, config.n_context, config.rotary_base) if rotary else None
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.n_layers))
        self.final_norm = _norm(config)
        self.unembed = nn.Linear(config.d_model, config.d_vocab, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2 and "norm" not in name:
                nn.init.normal_(parameter, std=1 / math.sqrt(config.d_model))
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(
        self, tokens: Int[Tensor, "batch pos"], lengths: Int[Tensor, "batch"] | None = None
    ) -> Float[Tensor, "batch logit_pos d_vocab"]:
        """Logits at every position (a hook on the unembedding may choose fewer).

        `lengths` are the prompts' own lengths where they are padded on the right; only a bidirectional decoder needs
        them. Errors: InputError where the prompt is longer than the context.
        """
        length = tokens.shape[1]
        if length > self.config.n_context:
            raise InputError(f"Decoder: prompt of {length} tokens, but n_context is {self.config.n_context}")
        x = self.embed(tokens)
        if self.position_embed is not None:
            x = x + self.position_embed.weight[:length]
        rotary = None if self.rotary is None else (self.rotary.cosine[:length], self.rotary.sine[:length])
        blocked = self._blocked(length, lengths, tokens.device)
        for layer in self.layers:
            x = layer(x, blocked, rotary)
        return self.unembed(self.final_norm(x))

    def _blocked(self, length: int, lengths: Tensor | None, device: torch.device) -> Tensor:
        """True where attention may not go, as (batch or 1, 1, query or 1, key)."""
        if self.config.causal:
            return torch.ones(length, length, dtype=torch.bool, device=device).triu(1)[None, None]
        if lengths is None:
            return torch.zeros(1, 1, 1, length, dtype=torch.bool, device=device)
        return (torch.arange(length, device=device) >= lengths[:, None])[:, None, None, :]

    def save(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors into `folder`, each whole or not at all."""
        from safetensors.torch import save_file

        folder = Path(folder)
        with replacing(folder / "model.safetensors") as weights, replacing(folder / "config.json") as config:
            save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, weights)
            config.write_text(json.dumps({"model_type": MODEL_TYPE, **asdict(self.config)}, indent=1))

    @classmethod
    def load(cls, folder: str | Path) -> "Decoder":
        """Read a folder that `save` wrote.

        Errors: BrokenFileError where a file is missing, truncated or does not fit; UnsupportedArchitectureError where
        the folder holds another kind of model.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(folder)
        try:
            fields = json.loads((folder / "config.json").read_text())
            kind = fields.pop("model_type", None)
            if kind != MODEL_TYPE:
                raise UnsupportedArchitectureError(f"{folder}: expected model_type {MODEL_TYPE!r}, got {kind!r}")
            decoder = cls(DecoderConfig(**fields))
            decoder.load_state_dict(load_file(folder / "model.safetensors"))
        except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
            raise BrokenFileError(f"{folder}: not a whole saved decoder ({error}); save it again") from error
        return decoder.eval()


def _norm(config: DecoderConfig) -> nn.Module:
    if config.normalization == "layer":
        return nn.LayerNorm(config.d_model)
    if config.normalization == "rms":
        return nn.RMSNorm(config.d_model, eps=1e-6)
    return nn.Identity()
