"""Run and Gradients: what one forward pass gave."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ..errors import InputError, SiteError
from .sites import Site
from .taps import pick_reads


@dataclass(frozen=True, repr=False)
class Run:
    """What one forward pass gave: logits, the activations that were read, and the prompts they belong to.

    `run["z.5"]` is the whole site, `run["z.5.3"]` one head. Rows are right-padded: beyond `lengths[i]` a row holds
    nothing of meaning (`mask` is False there). Activations are the model's own tensors, not copies.
    """

    tokens: Int[Tensor, "batch pos"]
    lengths: Int[Tensor, "batch"]
    logits: Tensor | None
    activations: Mapping[Site, Tensor]
    _nodes: Mapping[Site, Tensor]
    _positions: Any = None

    def __getitem__(self, site: str | Site) -> Tensor:
        return _pick(self.activations, site)

    def __contains__(self, site: str | Site) -> bool:
        return Site.parse(site).whole in self.activations

    def __repr__(self) -> str:
        read = ", ".join(f"{site} {list(tensor.shape)}" for site, tensor in self.activations.items())
        logits = "no logits" if self.logits is None else f"logits {list(self.logits.shape)}"
        return f"Run({len(self.tokens)} prompts, {logits}{'; ' if read else ''}{read})"

    @property
    def mask(self) -> Tensor:
        """True where a row holds a real token; [batch, pos]."""
        return torch.arange(self.tokens.shape[1], device=self.tokens.device) < self.lengths[:, None]

    def gradients(self, metric: Callable[[Tensor], Tensor]) -> "Gradients":
        """d metric / d activation at every site that was read.

        `metric` maps the logits to one number per prompt (or one in all); prompts do not touch each other, so each
        row of the result is its own prompt's gradient. Errors: InputError where the run had no `gradients=True`.
        """
        if self.logits is None or not self._nodes or not self.logits.requires_grad:
            raise InputError("run.gradients: needs model.run(…, read=[…], gradients=True) and logits")
        total = metric(self.logits).sum()
        found = torch.autograd.grad(total, list(self._nodes.values()), retain_graph=True, materialize_grads=True)
        caught = dict(zip(self._nodes, found, strict=True))
        return Gradients(pick_reads(caught, self._positions, self.lengths))


@dataclass(frozen=True)
class Gradients:
    """Gradients by site, in the shapes of the activations."""

    activations: Mapping[Site, Tensor]

    def __getitem__(self, site: str | Site) -> Tensor:
        return _pick(self.activations, site)


def _pick(activations: Mapping[Site, Tensor], site: str | Site) -> Tensor:
    site = Site.parse(site)
    if site.whole not in activations:
        raise SiteError(f"{site} was not read in this run; read were {', '.join(map(str, activations)) or 'no sites'}")
    whole = activations[site.whole]
    if site.head is None:
        return whole
    return whole.select(1 if site.name in ("attn_scores", "pattern") else whole.dim() - 2, site.head)
