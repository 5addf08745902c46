"""Exact patching sweeps against TransformerLens and the plain loop: same model, prompts and process, one thread.

Every method puts clean activations into the corrupted run and measures each prompt's logit difference at the last
position. The peers run one forward pass per cell, so a cell costs them the same wherever it is: they are timed on
random cells, a fresh part in each repetition, and scaled to the sweep (`--cells 0` times every cell). mechkit is timed
whole — recording, self-check, labelled result — in turns with the peers. CPU seconds of the process, the best
repetition of each.
"""

import argparse
import copy
import json
import platform
import statistics
import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from peers import PEERS, Setting, Sweep, by_mechkit
from timing import cpu_seconds, interleaved, markdown
from torch import Tensor

import mechkit as mk


def build(arguments: argparse.Namespace) -> Setting:
    """A random GPT-2-shaped model and random prompts."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_layer=arguments.layers, n_embd=arguments.d_model, n_head=arguments.heads)
    module = GPT2LMHeadModel(config).eval()
    bridge = build_bridge_from_module(copy.deepcopy(module), "GPT2LMHeadModel", hf_config=copy.deepcopy(config)).eval()
    size = (arguments.prompts, arguments.length)
    clean, corrupted = (torch.randint(config.vocab_size, size) for _ in range(2))
    answers, foils = (torch.randint(config.vocab_size, size[:1]) for _ in range(2))
    return Setting(module, mk.HookedModel(module, name="random GPT-2"), bridge, clean, corrupted, answers, foils)


def plan(setting: Setting) -> dict[str, Sweep]:
    """Every sweep, by the name that `--sweeps` takes."""

    def cells(**axes: range) -> pd.DataFrame:
        return pd.MultiIndex.from_product(list(axes.values()), names=list(axes)).to_frame(index=False)

    layer, head, pos = (range(size) for size in (setting.model.n_layers, setting.model.n_heads, setting.clean.shape[1]))
    residual = Sweep("resid_pre, layer × position", "resid_pre", ("layer", "position"), cells(layer=layer, pos=pos))
    at_end, every = cells(layer=layer, pos=pos[-1:], head=head), cells(layer=layer, pos=pos, head=head)
    return {
        "layer-position": residual,
        "shared-half": replace(residual, name=f"{residual.name}, first half of each prompt shared", shared_half=True),
        "heads-at-end": Sweep("every head's z at END", "z", ("layer", "head"), at_end, "END"),
        "head-position": Sweep("every head's z, layer × head × position", "z", ("layer", "head", "position"), every),
    }


GOALS = {
    ("layer-position", "TransformerLens"): 5,
    ("layer-position", "plain loop, last logits"): 3.5,
    ("shared-half", "TransformerLens"): 10,
    ("heads-at-end", "TransformerLens"): 40,
    ("heads-at-end", "plain loop, last logits"): 25,
    ("reads", "mechkit"): 1.1,
}


# -- measuring ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One method on one sweep: CPU seconds for all cells, ratio to mechkit, largest difference from its values."""

    sweep: str
    method: str
    cells: int
    timed: int
    seconds: float
    ratio: float
    goal: float | None
    difference: float


def measure(key: str, sweep: Sweep, setting: Setting, repetitions: int, timed: int) -> list[Row]:
    """mechkit and every peer in turns; each repetition takes the next part of the peers' random cells."""
    setting = setting.with_shared_half() if sweep.shared_half else setting
    total = len(sweep.cells)
    chosen = np.random.default_rng(0).permutation(total)[: timed or total]
    own: list[float] = []
    theirs: dict[str, list[float]] = {name: [] for name in PEERS}
    gaps = dict.fromkeys(PEERS, 0.0)
    for part in np.array_split(chosen, min(repetitions, len(chosen))):
        seconds, ours = cpu_seconds(partial(by_mechkit, setting, sweep))
        own.append(seconds)
        for name, prepare in PEERS.items():
            before, patch = cpu_seconds(partial(prepare, setting, sweep))
            seconds, values = cpu_seconds(partial(patch, sweep.cells.iloc[part]))
            theirs[name].append(before + seconds * total / len(part))
            gaps[name] = max(gaps[name], float(np.abs(values - ours[part]).max()))
    rows = [Row(sweep.name, "mechkit", total, total, min(own), 1.0, None, 0.0)]
    for name, taken in theirs.items():
        goal = GOALS.get((key, name))
        rows.append(Row(sweep.name, name, total, len(chosen), min(taken), min(taken) / min(own), goal, gaps[name]))
    return rows


def measure_reads(setting: Setting, repetitions: int) -> list[Row]:
    """A run that reads every resid_post and every z, against the bare module; the ratio is of neighbouring runs."""
    read = [f"{site}.{layer}" for site in ("resid_post", "z") for layer in range(setting.model.n_layers)]

    def bare() -> Tensor:
        return setting.module(input_ids=setting.clean, use_cache=False).logits

    def reading() -> mk.models.hooked.Run:
        return setting.model.run(setting.clean, read=read)

    taken = interleaved({"bare forward": bare, "mechkit": reading}, repetitions)
    gap = float((reading().logits - bare()).abs().max())  # type: ignore[operator]
    ratio = statistics.median(a / b for a, b in zip(taken["mechkit"], taken["bare forward"], strict=True))
    name, count = "read every resid_post and z", len(read)
    seconds = {method: statistics.median(values) for method, values in taken.items()}
    return [
        Row(name, "bare forward", 0, 0, seconds["bare forward"], 1.0, None, 0.0),
        Row(name, "mechkit", count, count, seconds["mechkit"], ratio, GOALS["reads", "mechkit"], gap),
    ]


def table(rows: list[Row]) -> str:
    """The rows as markdown; a ratio above 1 means that mechkit is quicker, but for reads, where it is the overhead."""
    header = ("sweep", "cells", "method", "cells timed", "CPU s", "ratio", "goal", "largest difference")
    shown = []
    for row in rows:
        goal = "" if row.goal is None else f"{'≤' if row.sweep.startswith('read') else '≥'} {row.goal:g}"
        gap = "" if not row.difference else f"{row.difference:.1e}"
        shown.append((row.sweep, row.cells, row.method, row.timed, f"{row.seconds:.2f}", f"{row.ratio:.2f}", goal, gap))
    return markdown(header, shown)


def facts(arguments: argparse.Namespace, setting: Setting, seconds: float) -> dict[str, Any]:
    """What the numbers were measured with."""
    packages = ("torch", "transformers", "transformer-lens")
    sizes = {name: getattr(arguments, name) for name in ("layers", "d_model", "heads", "prompts", "length")}
    with torch.no_grad():
        sides = [setting.metric(setting.module(tokens).logits) for tokens in (setting.clean, setting.corrupted)]
    return {
        **{name: version(name) for name in packages},
        **sizes,
        "python": platform.python_version(),
        "largest |clean - corrupted|": round(float((sides[0] - sides[1]).abs().max()), 2),
        "wall seconds": round(seconds),
    }


def parse() -> argparse.Namespace:
    """Command-line arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--sweeps", nargs="+", help="some of layer-position shared-half heads-at-end head-position reads"
    )
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--d-model", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--length", type=int, default=20, help="tokens in a prompt")
    parser.add_argument("--cells", type=int, default=45, help="cells on which the peers are timed; 0: all")
    parser.add_argument("--repetitions", type=int, default=3, help="how often mechkit runs each sweep")
    parser.add_argument("--quick", action="store_true", help="a small model and few cells: does everything run?")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args()
    if arguments.quick:
        small = {"layers": 3, "d_model": 64, "heads": 4, "prompts": 4, "length": 8, "cells": 9}
        vars(arguments).update(small)
    return arguments


def main() -> None:
    torch.set_num_threads(1)
    arguments, start = parse(), time.perf_counter()
    setting = build(arguments)
    todo, rows = plan(setting), []
    with torch.no_grad():
        for key in arguments.sweeps or (*todo, "reads"):
            if key == "reads":
                new = measure_reads(setting, 5 * arguments.repetitions)
            else:
                large = len(todo[key].cells) > 1000  # long enough to need no repetition
                new = measure(key, todo[key], setting, 1 if large else arguments.repetitions, arguments.cells)
            rows += new
            print(*(f"{row.sweep}: {row.method}, {row.seconds:.2f} s" for row in new), sep="\n", file=sys.stderr)
    made = facts(arguments, setting, time.perf_counter() - start)
    print(f"{table(rows)}\n\n{', '.join(f'{name} {value}' for name, value in made.items())}")
    if arguments.json:
        found = {"facts": made, "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
