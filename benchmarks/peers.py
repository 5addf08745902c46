"""The same patching sweep four times: mechkit, TransformerLens, and the plain loop with all or the last logits."""

from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from functools import partial
from io import StringIO
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import mechkit as mk

Values = np.ndarray
"""The metric of some cells: [cell, prompt]."""

Patch = Callable[[pd.DataFrame], Values]
"""A peer that has run the clean prompts and now takes any cells of its sweep."""

Hook = Callable[[nn.Module, tuple[Tensor, ...]], Any]


@dataclass(frozen=True)
class Setting:
    """One model — as a module, as mechkit's and, a copy, as TransformerLens' — and the pairs of prompts."""

    module: nn.Module
    model: mk.HookedModel
    bridge: Any
    clean: Tensor
    corrupted: Tensor
    answers: Tensor
    foils: Tensor

    @property
    def task(self) -> mk.tasks.Task:
        """The prompts as mechkit's task."""
        pairs = (tokens.tolist() for tokens in (self.clean, self.corrupted, self.answers, self.foils))
        return mk.tasks.from_tokens(*pairs)

    def metric(self, logits: Tensor) -> Tensor:
        """Logit difference at the last position; [prompt]."""
        rows = torch.arange(len(logits))
        return logits[rows, -1, self.answers] - logits[rows, -1, self.foils]

    def with_shared_half(self) -> "Setting":
        """The same pairs, but the first half of each corrupted prompt is the clean one's."""
        half = self.clean.shape[1] // 2
        return replace(self, corrupted=torch.cat((self.clean[:, :half], self.corrupted[:, half:]), dim=1))


@dataclass(frozen=True)
class Sweep:
    """Cells with columns layer, pos and maybe head, and how mechkit is asked for them."""

    name: str
    site: str
    over: tuple[str, ...]
    cells: pd.DataFrame
    positions: str | None = None
    shared_half: bool = False


def by_mechkit(setting: Setting, sweep: Sweep) -> Values:
    """The public call, whole, with its values in the order of the sweep's cells."""
    model, positions = setting.model, sweep.positions
    raw = mk.patch(model, setting.task, sweep.site, sweep.over, positions=positions, progress=False).raw
    order = [dim for dim in ("layer", "position", "head") if dim in sweep.over]
    return raw.transpose(*order, "example").to_numpy().reshape(len(sweep.cells), -1)


def by_transformer_lens(setting: Setting, sweep: Sweep) -> Patch:
    """TransformerLens' `get_act_patch_…` for this site; the clean run caches no more than that site."""
    from transformer_lens import patching

    patch, name = {
        "resid_pre": (patching.get_act_patch_resid_pre, "hook_resid_pre"),
        "z": (patching.get_act_patch_attn_head_out_by_pos, "hook_z"),
    }[sweep.site]
    _, cache = setting.bridge.run_with_cache(setting.clean, names_filter=lambda hook: hook.endswith(name))

    def run(cells: pd.DataFrame) -> Values:
        of = (setting.bridge, setting.corrupted, cache, setting.metric)
        with redirect_stderr(StringIO()):  # its progress bar cannot be switched off
            result: Any = patch(*of, index_axis_names=None, index_df=cells, reduce="none")
        return result.values.numpy()

    return run


def by_loop(setting: Setting, sweep: Sweep, *, last_only: bool) -> Patch:
    """One forward pass of the module per cell, as quick as it goes: SDPA attention, no cache, one hook."""
    keep = {"logits_to_keep": 1} if last_only else {}
    blocks, d_head = list(setting.module.transformer.h), setting.model.d_head  # type: ignore[union-attr, arg-type]
    places: list[nn.Module] = blocks if sweep.site == "resid_pre" else [block.attn.c_proj for block in blocks]
    source: dict[int, Tensor] = {}

    def keeping(layer: int) -> Hook:
        return lambda _, inputs: source.update({layer: inputs[0]})

    def putting(layer: int, pos: int, head: int | None = None) -> Hook:
        columns = slice(None) if head is None else slice(head * d_head, (head + 1) * d_head)

        def put(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            changed = inputs[0].clone()
            changed[:, pos, columns] = source[layer][:, pos, columns]
            return changed, *inputs[1:]

        return put

    def outcome(tokens: Tensor, hooks: dict[int, Hook]) -> Tensor:
        handles = [places[layer].register_forward_pre_hook(hook) for layer, hook in hooks.items()]
        logits = setting.module(input_ids=tokens, use_cache=False, **keep).logits
        for handle in handles:
            handle.remove()
        return setting.metric(logits)

    outcome(setting.clean, {layer: keeping(layer) for layer in range(len(places))})

    def run(cells: pd.DataFrame) -> Values:
        rows = cells.itertuples(index=False, name=None)
        found = [outcome(setting.corrupted, {row[0]: putting(*row)}) for row in rows]
        return torch.stack(found).numpy()

    return run


PEERS: dict[str, Callable[[Setting, Sweep], Patch]] = {
    "TransformerLens": by_transformer_lens,
    "plain loop, all logits": partial(by_loop, last_only=False),
    "plain loop, last logits": partial(by_loop, last_only=True),
}
