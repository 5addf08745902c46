"""Site: a place in the computation, named as TransformerLens names it, with one meaning on every architecture.

| site                            | shape                        | what it is                                        |
|---------------------------------|------------------------------|---------------------------------------------------|
| `embed`                         | batch, pos, d_model          | token embedding, before positions are added       |
| `resid_pre.L`, `_mid`, `_post`  | batch, pos, d_model          | residual stream before, inside, after layer L     |
| `q.L`, `k.L`, `v.L`             | batch, pos, head, d_head     | projections, before rotary positions; k and v have|
|                                 |                              | one head per key/value group                      |
| `attn_scores.L`                 | batch, head, query, key      | scaled and masked, before the softmax             |
| `pattern.L`                     | batch, head, query, key      | attention weights                                 |
| `z.L`                           | batch, pos, head, d_head     | pattern · v, before the output projection         |
| `result.L`                      | batch, pos, head, d_model    | what each head writes; without the output bias    |
| `attn_out.L`, `mlp_out.L`       | batch, pos, d_model          | what attention and MLP add to the residual stream |
| `mlp_pre.L`, `mlp_post.L`       | batch, pos, d_mlp            | before and after the activation; in a gated MLP   |
|                                 |                              | the gate's input, and activation × up             |
| `ln_final`                      | batch, pos, d_model          | output of the final norm                          |
| `logits`                        | batch, pos, d_vocab          | the model's own logits                            |

A head is one more number: `z.5.3`, shown as L5H3.
"""

import difflib
import re
from dataclasses import dataclass

from ..errors import SiteError

HEAD_SITES = ("q", "k", "v", "attn_scores", "pattern", "z", "result")
RESIDUAL_SITES = ("resid_pre", "resid_mid", "resid_post")
LAYER_SITES = (*RESIDUAL_SITES, *HEAD_SITES, "attn_out", "mlp_pre", "mlp_post", "mlp_out")
GLOBAL_SITES = ("embed", "ln_final", "logits")
SITES = (*GLOBAL_SITES, *LAYER_SITES)

AXES: dict[str, tuple[str, ...]] = dict.fromkeys(SITES, ("batch", "position", "feature"))
AXES |= dict.fromkeys(("q", "k", "v", "z", "result"), ("batch", "position", "head", "feature"))
AXES |= dict.fromkeys(("attn_scores", "pattern"), ("batch", "head", "position", "feature"))
"""Each site's axes. For attention scores and patterns, `position` is the query and `feature` the key."""

_FORM = re.compile(r"([a-z_]+)(?:\.(\d+))?(?:\.(\d+))?")


@dataclass(frozen=True, order=True)
class Site:
    """A place in the computation: `Site("z", 5, 3)` is `z.5.3`; `Site.parse` reads that back.

    Errors: SiteError where the name is unknown, a layer is missing or not wanted, or a head is given where the site
    has none.
    """

    name: str
    layer: int | None = None
    head: int | None = None

    def __post_init__(self) -> None:
        if self.name not in SITES:
            near = difflib.get_close_matches(self.name, SITES, n=2)
            hint = f"did you mean {' or '.join(near)}?" if near else f"the sites are {', '.join(SITES)}"
            raise SiteError(f"unknown site {self.name!r}: {hint}")
        if self.name in GLOBAL_SITES:
            if self.layer is not None:
                raise SiteError(f"site {self.name!r} has no layer, got layer {self.layer}; write {self.name!r}")
        elif self.layer is None or self.layer < 0:
            raise SiteError(f"site {self.name!r} needs a layer from 0 up, as in '{self.name}.5'; got {self.layer}")
        if self.head is not None and (self.name not in HEAD_SITES or self.head < 0):
            raise SiteError(f"site {self.name!r} takes no head {self.head}; heads exist at {', '.join(HEAD_SITES)}")

    @classmethod
    def parse(cls, text: "str | Site") -> "Site":
        """Read `name`, `name.layer` or `name.layer.head`. Errors: SiteError."""
        if isinstance(text, cls):
            return text
        match = _FORM.fullmatch(str(text).strip())
        if match is None:
            raise SiteError(f"site {text!r} does not parse: expected 'name', 'name.layer' or 'name.layer.head'")
        name, layer, head = match.groups()
        return cls(name, None if layer is None else int(layer), None if head is None else int(head))

    def __str__(self) -> str:
        return ".".join(str(part) for part in (self.name, self.layer, self.head) if part is not None)

    @property
    def label(self) -> str:
        """How a figure shows it: `L5H3` for a head's output, else the site's own name."""
        if self.head is not None:
            shown = f"L{self.layer}H{self.head}"
            return shown if self.name in ("z", "result") else f"{shown} {self.name}"
        return str(self)

    @property
    def depth(self) -> int:
        """The layer, of a site that has one."""
        assert self.layer is not None
        return self.layer

    @property
    def whole(self) -> "Site":
        """The same place with all its heads."""
        return Site(self.name, self.layer)

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes of its activation; a single head has no head axis."""
        axes = AXES[self.name]
        return axes if self.head is None else tuple(axis for axis in axes if axis != "head")
