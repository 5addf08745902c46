"""Replay: recompute only what a change can reach, from a recorded run.

A change at layer l and position p of a causal model cannot touch anything before layer l or before position p. So a
run is recorded once — residual stream, keys and values — and a changed run is resumed from there:

1. `record` runs the model in pieces and keeps what replay resumes from.
2. A *lane* is a set of prompts that share the first changed position, the end and the answer's position. It carries
   many *cells* (different interventions) at once, each of which enters at the layer where it was made.
3. `replay` walks up the layers with all lanes packed into one block of tokens, so that every matrix product is large;
   only attention is done lane by lane, against the recorded keys and values of the unchanged prefix.
4. In the last layer only the answer's position is computed.

The numbers are those of the full forward pass up to rounding. Lengths are in tokens.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .decoder import turn
from .families import Family

KEPT = ("q", "z", "attn_out", "mlp_out")
"""What `record` keeps on request, besides residual stream, keys and values."""


@dataclass(frozen=True)
class Lane:
    """Prompts (rows of the record) that share first changed position, end and answer position."""

    prompts: Int[Tensor, "n"]
    start: int
    stop: int
    answer: int

    @property
    def width(self) -> int:
        """Positions that are recomputed."""
        return self.stop - self.start


@dataclass(frozen=True)
class Record:
    """One run of n prompts, right-padded to the longest: lists go by layer.

    residual: before each layer, and after the last; [n, pos, d_model]. middle: after attention. keys are turned by
    their position where it is rotary; [n, pos, kv, d_head]. kept: what else was asked for, by (name, layer).
    """

    residual: list[Float[Tensor, "n pos d_model"]]
    middle: list[Float[Tensor, "n pos d_model"]]
    keys: list[Float[Tensor, "n pos kv d_head"]]
    values: list[Float[Tensor, "n pos kv d_head"]]
    kept: dict[tuple[str, int], Tensor] = field(default_factory=dict)


@dataclass
class Inside:
    """What one block computed, packed over all lanes: [token, …]."""

    q: Tensor
    k: Tensor
    v: Tensor
    z: Tensor
    attn_out: Tensor
    middle: Tensor
    mlp_out: Tensor | None


class Replayer:
    """Resumes changed runs of one model. Positions are turned with one table for the longest prompt."""

    def __init__(self, family: Family, length: int):
        self.family = family
        self.rotary = family.rotary_table(length)

    # -- one run, whole --------------------------------------------------------------------------------------------

    def record(self, tokens: Int[Tensor, "n pos"], lanes: Sequence[Lane], keep: Iterable[str] = ()) -> Record:
        """Run every lane from its first token and keep what replay needs; `keep` names more of `KEPT`.

        Of the last layer only the answer's position is computed, keys and values apart: the rest of its residual
        stream stays 0, since nothing ever reads it.
        """
        family, keep, size = self.family, tuple(keep), tokens.shape
        states = [family.positional(tokens[lane.prompts, : lane.stop])[None] for lane in lanes]
        record = Record([_gather(states, lanes, size)], [], [], [])
        for layer in range(family.n_layers):
            final = layer == family.n_layers - 1
            before, (states, inside) = states, self.block(layer, states, lanes, None, final)
            for name, destination in (("k", record.keys), ("v", record.values), ("middle", record.middle)):
                whole = name != "middle"
                destination.append(_gather(_split(getattr(inside, name), before if whole else states), lanes, size))
            record.residual.append(_gather(states, lanes, size))
            for name in keep:
                packed = getattr(inside, name)
                if packed is not None:
                    like = before if name == "q" else states
                    record.kept[name, layer] = _gather(_split(packed, like), lanes, size)
        return record

    # -- changed runs, resumed -------------------------------------------------------------------------------------

    def replay(
        self,
        base: Record,
        lanes: Sequence[Lane],
        entries: Sequence[Mapping[int, Callable[[], Float[Tensor, "cells n width d_model"]]]],
    ) -> list[Float[Tensor, "cells n d_model"]]:
        """The final residual stream at the answer, for every cell of every lane.

        `entries[i]` maps a layer to a function that gives the states of the cells of lane i that enter there (the
        number of layers stands for "after the last one"). Cells come out in the order in which they entered.
        """
        n_layers = self.family.n_layers
        empty = base.residual[0].new_empty
        states = [empty(0, len(lane.prompts), lane.width, self.family.d_model) for lane in lanes]
        for layer in range(n_layers):
            for i, lane_entries in enumerate(entries):
                if layer in lane_entries:
                    states[i] = torch.cat((states[i], lane_entries[layer]()))
            active = [i for i, state in enumerate(states) if len(state)]
            if active:
                final = layer == n_layers - 1
                moved, _ = self.block(layer, [states[i] for i in active], [lanes[i] for i in active], base, final)
                for i, state in zip(active, moved, strict=True):
                    states[i] = state
        answers = []
        for lane, state, lane_entries in zip(lanes, states, entries, strict=True):
            answer = state[:, :, 0] if len(state) else state.new_empty(0, len(lane.prompts), self.family.d_model)
            if n_layers in lane_entries:
                late = lane_entries[n_layers]()[:, :, lane.answer - lane.start]
                answer = torch.cat((answer, late))
            answers.append(answer)
        return answers

    def block(
        self,
        layer: int,
        states: Sequence[Float[Tensor, "_ _ _ d_model"]],
        lanes: Sequence[Lane],
        base: Record | None,
        final: bool = False,
    ) -> tuple[list[Tensor], Inside]:
        """One layer for all lanes: [cells, prompts, width, d_model] in and out.

        `base` gives keys and values of the unchanged prefix. With `final`, only the answer's position comes out.
        """
        family = self.family
        packed = _pack(states)
        q, k, v = family.project_all(layer, family.attention_norm(layer, packed))
        zs, ks, asking = [], [], []
        parts = zip(_split(q, states), _split(k, states), _split(v, states), states, lanes, strict=True)
        for q_lane, k_lane, v_lane, state, lane in parts:
            if final:
                at = slice(lane.answer - lane.start, lane.answer - lane.start + 1)
                q_lane, state = q_lane[:, :, at], state[:, :, at]
            k_lane = self.turned(k_lane, range(lane.start, lane.stop))
            queries = range(lane.answer, lane.answer + 1) if final else range(lane.start, lane.stop)
            q_lane = self.turned(q_lane, queries)
            before = None if base is None or not lane.start else _prefix(base, layer, lane)
            zs.append(self.attend(layer, q_lane, k_lane, v_lane, queries, lane.start, before))
            ks.append(k_lane)
            asking.append(state)
        z = _pack(zs)
        residual = _pack(asking)
        attn_out = family.attention_output(layer, z)
        middle = residual + attn_out
        mlp_out = self.mlp_branch(layer, middle)
        out = middle if mlp_out is None else middle + mlp_out
        inside = Inside(q, _pack(ks), v, z, attn_out, middle, mlp_out)
        return _split(out, asking), inside

    # -- pieces ----------------------------------------------------------------------------------------------------

    def mlp_branch(self, layer: int, middle: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"] | None:
        """What the MLP adds, or None where there is none."""
        if not self.family.d_mlp:
            return None
        return self.family.mlp(layer, self.family.mlp_norm(layer, middle))

    def after_attention(self, layer: int, middle: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """resid_mid to resid_post."""
        mlp_out = self.mlp_branch(layer, middle)
        return middle if mlp_out is None else middle + mlp_out

    def turned(
        self, x: Float[Tensor, "*n pos head d_head"], positions: range | Tensor
    ) -> Float[Tensor, "*n pos head d_head"]:
        """Queries or keys, turned by their positions where these are rotary."""
        if self.rotary is None:
            return x
        at = slice(positions.start, positions.stop) if isinstance(positions, range) else positions
        cosine, sine = (table[at] for table in self.rotary)
        return turn(x, cosine, sine)

    def blocked(self, layer: int, queries: range | Tensor, keys: range, device: torch.device) -> Tensor | None:
        """True where a query may not see a key [query, key], or None where all may."""
        if not self.family.causal:
            return None
        asked = torch.as_tensor(queries, device=device)[:, None]
        seen = torch.arange(keys.start, keys.stop, device=device)
        window = self.family.attention_window(layer)
        blocked = seen > asked if window is None else (seen > asked) | (seen <= asked - window)
        return blocked if bool(blocked.any()) else None

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "cells n asked head d_head"],
        k: Float[Tensor, "cells n width kv d_head"],
        v: Float[Tensor, "cells n width kv d_head"],
        queries: range,
        start: int,
        prefix: tuple[Tensor, Tensor] | None = None,
    ) -> Float[Tensor, "cells n asked head d_head"]:
        """Attention of turned queries over the lane's own keys and, before `start`, the recorded prefix's.

        The prefix [n, start, kv, d_head] is shared by all cells, so it is never copied.
        """
        grouped = q.unflatten(3, (k.shape[3], -1))
        scores = torch.einsum("cnakgd,cntkd->cnkgat", grouped, k)
        if prefix is not None:
            earlier = torch.einsum("cnakgd,npkd->cnkgap", grouped, prefix[0])
            scores = torch.cat((earlier, scores), dim=-1)
        scores = scores * self.family.attention_scale(layer)
        first = start if prefix is None else 0
        blocked = self.blocked(layer, queries, range(first, start + k.shape[2]), q.device)
        pattern = masked_softmax(scores, blocked)
        z = torch.einsum("cnkgat,cntkd->cnakgd", pattern[..., start - first :], v)
        if prefix is not None:
            z = z + torch.einsum("cnkgap,npkd->cnakgd", pattern[..., :start], prefix[1])
        return z.flatten(3, 4)


def masked_softmax(scores: Float[Tensor, "*n asked key"], blocked: Tensor | None) -> Float[Tensor, "*n asked key"]:
    """Softmax over the keys that are not blocked, at single precision at least."""
    if blocked is not None:
        scores = scores.masked_fill(blocked, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)


def _prefix(base: Record, layer: int, lane: Lane) -> tuple[Tensor, Tensor]:
    return base.keys[layer][lane.prompts, : lane.start], base.values[layer][lane.prompts, : lane.start]


def _pack(parts: Sequence[Tensor]) -> Tensor:
    """Lanes [cells, prompts, width, …] to one block of tokens [token, …]."""
    flat = [part.flatten(0, 2) for part in parts]
    return flat[0] if len(flat) == 1 else torch.cat(flat)


def _split(packed: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """One block of tokens back to lanes, as views."""
    parts = packed.split([part.shape[:3].numel() for part in like])
    return [part.unflatten(0, shape.shape[:3]) for part, shape in zip(parts, like, strict=True)]


def _gather(parts: Sequence[Tensor], lanes: Sequence[Lane], size: torch.Size) -> Tensor:
    """Lanes of one cell to one right-padded tensor [n, pos, …]; parts of width 1 belong at the answer.

    A view where one lane is everything.
    """
    whole_width = all(part.shape[2] == lane.width for part, lane in zip(parts, lanes, strict=True))
    everything = len(lanes) == 1 and lanes[0].stop == size[1] and len(lanes[0].prompts) == size[0]
    if everything and whole_width and bool((lanes[0].prompts.diff() == 1).all()):
        return parts[0][0]
    whole = parts[0].new_zeros(*size, *parts[0].shape[3:])
    for part, lane in zip(parts, lanes, strict=True):
        at = slice(0, lane.stop) if part.shape[2] == lane.width else slice(lane.answer, lane.answer + 1)
        whole[lane.prompts, at] = part[0]
    return whole
