"""Injection: a patched site, as the residual stream of the layer where replay takes over.

For each kind of site, the least that has to be computed at the patched layer itself, at the touched positions alone:

| patched                     | computed there                                   | replay takes over |
|-----------------------------|--------------------------------------------------|-------------------|
| resid_pre (embed at l = 0)  | nothing                                          | before layer l    |
| resid_post (ln_final, logits at the end) | nothing                             | before layer l + 1|
| z, result                   | output projection, MLP                           | before layer l + 1|
| q, pattern, attn_scores     | the head's attention, output projection, MLP     | before layer l + 1|
| k, v                        | the same for every later query                   | before layer l + 1|
| attn_out, resid_mid         | MLP                                              | before layer l + 1|
| mlp_pre, mlp_post           | the rest of the MLP                              | before layer l + 1|
| mlp_out                     | nothing                                          | before layer l + 1|

Two equalities shorten the table: `result` is linear in z, so patching either is the same; and a whole row of scores
determines its row of the pattern.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import SiteError
from .families import is_plain
from .replay import Lane, Record, Replayer, masked_softmax

NEEDS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "z": (frozenset({"z"}), frozenset({"z"})),
    "result": (frozenset({"z"}), frozenset({"z"})),
    "q": (frozenset({"z"}), frozenset({"q"})),
    "k": (frozenset({"z", "q"}), frozenset()),
    "v": (frozenset({"z", "q"}), frozenset()),
    "pattern": (frozenset({"z"}), frozenset({"q"})),
    "attn_scores": (frozenset({"z"}), frozenset({"q"})),
    "attn_out": (frozenset(), frozenset({"attn_out"})),
    "mlp_out": (frozenset(), frozenset({"mlp_out"})),
}
"""Site -> what must be kept of the base run and of the source run."""


def needed(names: Sequence[str]) -> tuple[frozenset[str], frozenset[str]]:
    """What must be kept of the base run and of the source run to patch these sites."""
    needs = [NEEDS.get(name, (frozenset[str](), frozenset[str]())) for name in names]
    return frozenset().union(*(base for base, _ in needs)), frozenset().union(*(source for _, source in needs))


def entry_layer(name: str, layer: int, n_layers: int) -> int:
    """The layer before which replay takes over."""
    if name in ("ln_final", "logits"):
        return n_layers
    return {"embed": 0, "resid_pre": layer}.get(name, layer + 1)


@dataclass(frozen=True)
class Injector:
    """Patches sites of `base` with their values in `source`."""

    replayer: Replayer
    base: Record
    source: Record

    def inject(
        self, name: str, layer: int, heads: Sequence[int] | None, lane: Lane, touched: Int[Tensor, "k"]
    ) -> Float[Tensor, "cells n width d_model"]:
        """States with which the cells enter at `entry_layer`; one cell per head, or one for the whole site.

        `touched` are the patched positions, the same for every prompt of the lane.
        """
        rows, at, family = lane.prompts[:, None], touched, self.replayer.family
        entry = entry_layer(name, layer, family.n_layers)
        base, source = self.base, self.source
        if entry == layer or name in ("embed", "resid_pre", "resid_post", "ln_final", "logits"):
            return self._state(entry, lane, at, source.residual[entry][rows, at][None])
        if name in ("k", "v"):
            at = torch.arange(lane.start, lane.stop, device=touched.device)
            new = self._attention_over_patched(name, layer, lane, touched)
            middle = self._middle(layer, new, heads, family.n_heads // family.n_kv_heads, rows, at)
        elif name in ("z", "result", "q", "pattern", "attn_scores"):
            middle = self._middle(layer, self._patched_z(name, layer, lane, touched), heads, 1, rows, at)
        elif name == "resid_mid":
            middle = source.middle[layer][rows, at][None]
        elif name == "attn_out":
            middle = (base.residual[layer][rows, at] + source.kept["attn_out", layer][rows, at])[None]
        elif name in ("mlp_pre", "mlp_post", "mlp_out"):
            mlp_out = self._patched_mlp(name, layer, rows, at)
            return self._state(entry, lane, at, (base.middle[layer][rows, at] + mlp_out)[None])
        else:
            raise SiteError(f"site {name} cannot be patched by replay")
        return self._state(entry, lane, at, self.replayer.after_attention(layer, middle))

    def _state(self, entry: int, lane: Lane, at: Tensor, changed: Tensor) -> Tensor:
        """The base's residual stream over the lane's width, changed at the touched positions."""
        whole = self.base.residual[entry][lane.prompts, lane.start : lane.stop]
        state = whole[None].repeat(len(changed), 1, 1, 1)
        state[:, :, at - lane.start] = changed
        return state

    def _middle(
        self,
        layer: int,
        new: Float[Tensor, "n k head d_head"],
        heads: Sequence[int] | None,
        group: int,
        rows: Int[Tensor, "n 1"],
        at: Int[Tensor, "k"],
    ) -> Float[Tensor, "cells n k d_model"]:
        """resid_mid with all of z new, or with one head (or group of heads) new in each cell.

        What attention writes is linear in z, so a head's cell costs that head's part of the output projection alone.
        """
        family = self.replayer.family
        if heads is None:
            return (self.base.residual[layer][rows, at] + family.attention_output(layer, new))[None]
        which = torch.tensor(heads, device=new.device)[:, None] * group + torch.arange(group, device=new.device)
        old = self.base.kept["z", layer][rows, at]
        if not is_plain(family.output_projection(layer)):
            cells = old[None].repeat(len(heads), 1, 1, 1, 1)
            for cell, members in enumerate(which):
                cells[cell, :, :, members] = new[:, :, members]
            return self.base.residual[layer][rows, at] + family.attention_output(layer, cells)
        change = (new - old)[:, :, which]
        written = torch.einsum("nkcgd,cgdm->cnkm", change, family.result_weight(layer)[which])
        return self.base.middle[layer][rows, at] + written

    def _patched_z(
        self, name: str, layer: int, lane: Lane, touched: Int[Tensor, "k"]
    ) -> Float[Tensor, "n k head d_head"]:
        """z at the touched positions, with every head as the patch makes it."""
        if name in ("z", "result"):
            return self.source.kept["z", layer][lane.prompts[:, None], touched]
        return self._attention(name, layer, lane, touched)

    def _attention(self, name: str, layer: int, lane: Lane, touched: Tensor) -> Tensor:
        """Every head's z at the touched queries, with q or the pattern from the source."""
        replayer, base, source = self.replayer, self.base, self.source
        rows = lane.prompts[:, None]
        q = replayer.turned(source.kept["q", layer][rows, touched], touched)
        scores_from = base if name == "q" else source
        keys = scores_from.keys[layer][lane.prompts, : lane.stop]
        grouped = q.unflatten(2, (keys.shape[2], -1))
        scores = torch.einsum("nakgd,ntkd->nkgat", grouped, keys) * replayer.family.attention_scale(layer)
        blocked = replayer.blocked(layer, touched, range(lane.stop), q.device)
        pattern = masked_softmax(scores, blocked)
        return torch.einsum("nkgat,ntkd->nakgd", pattern, base.values[layer][lane.prompts, : lane.stop]).flatten(2, 3)

    def _attention_over_patched(
        self, name: str, layer: int, lane: Lane, touched: Int[Tensor, "k"]
    ) -> Float[Tensor, "n asked head d_head"]:
        """Every head's z at every query of the lane, with keys or values from the source at the touched positions."""
        replayer, base = self.replayer, self.base
        rows, stop = lane.prompts[:, None], lane.stop
        queries = range(lane.start, stop)
        q = replayer.turned(base.kept["q", layer][lane.prompts, lane.start : stop], queries)
        read = {"k": base.keys[layer][lane.prompts, :stop], "v": base.values[layer][lane.prompts, :stop]}
        read[name] = read[name].clone()
        read[name][:, touched] = (self.source.keys if name == "k" else self.source.values)[layer][rows, touched]
        blocked = replayer.blocked(layer, queries, range(stop), q.device)
        grouped = q.unflatten(2, (read["k"].shape[2], -1))
        scores = torch.einsum("nakgd,ntkd->nkgat", grouped, read["k"]) * replayer.family.attention_scale(layer)
        return torch.einsum("nkgat,ntkd->nakgd", masked_softmax(scores, blocked), read["v"]).flatten(2, 3)

    def _patched_mlp(self, name: str, layer: int, rows: Tensor, at: Tensor) -> Tensor:
        """mlp_out at the touched positions, with the named part from the source."""
        family = self.replayer.family
        if name == "mlp_out":
            return self.source.kept["mlp_out", layer][rows, at]
        normed = family.mlp_norm(layer, self.base.middle[layer][rows, at])
        source = family.mlp_norm(layer, self.source.middle[layer][rows, at])
        pre, post = family.mlp_activations(layer, source)
        if name == "mlp_pre":
            _, post = family.mlp_activations(layer, normed, pre)
        return family.mlp_down(layer, post)
