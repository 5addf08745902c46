"""What the scripts in this folder share: their arguments, the model with its fallback, and the page they write."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go
import torch

import mechkit as mk
from mechkit import figures, pages
from mechkit.cli import add_threads, set_threads
from mechkit.errors import ChromeMissingError, NetworkError
from mechkit.results import EffectResult

DEFAULT_MODEL = "smollm2-135m-instruct"


def arguments(description: str, name: str, n: int) -> argparse.Namespace:
    """`--model --out --n --seed`, with the same meaning in every script."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, help="zoo name, folder, .gguf file or hub id (default: %(default)s)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out") / name,
        help="folder for the page and the pictures (default: %(default)s)",
    )
    parser.add_argument("--n", type=int, default=n, help="number of prompt pairs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the prompts (default: %(default)s)")
    add_threads(parser)
    given = parser.parse_args()
    set_threads(given.threads)
    return given


def load_or_make(name: str) -> tuple[mk.HookedModel, str]:
    """The model, and one line that says so; the small model that mechkit trains itself where none can be had."""
    try:
        model = mk.load(name)
    except NetworkError as error:
        if name != DEFAULT_MODEL:
            raise
        say(f"{error}\n{name} is not to be had: going on with a small model that mechkit trains itself")
        model = mk.training.small_ioi()
        return model, f"{name} could not be fetched, so this is {model!r}, trained by mechkit on such sentences."
    return model, repr(model)


def say(text: str) -> None:
    """One line to the user."""
    print(text, file=sys.stderr, flush=True)


class Study:
    """A page that grows block by block and is written whole each time; its figures are also pictures."""

    def __init__(self, title: str, folder: Path):
        self.title, self.folder = title, folder
        self.blocks: list[pages.Block] = []
        self.pictures: dict[str, go.Figure] = {}
        self.draws = True
        self.started = time.perf_counter()

    def text(self, *paragraphs: str, heading: str | None = None) -> None:
        """Paragraphs, maybe under a heading."""
        if heading:
            self.blocks.append(pages.Heading(heading))
        self.blocks += [pages.Text(paragraph) for paragraph in paragraphs]

    def table(self, result: EffectResult, caption: str, k: int = 12) -> None:
        """The cells with the largest effects."""
        self.blocks.append(pages.Table(result.top(k), caption))

    def provenance(self, result: EffectResult) -> None:
        """What the numbers were made with, folded away."""
        facts = "\n".join(f"{name}: {value}" for name, value in result.attrs.items())
        self.blocks.append(pages.Details("What these numbers were made with", [pages.Preformatted(facts)]))

    def figure(self, name: str, figure: go.Figure, caption: str = "") -> None:
        """A figure on the page, and a picture of that name."""
        self.blocks.append(pages.Figure(figure, caption))
        self.pictures[name] = figure

    def write(self) -> None:
        """The page, then the pictures that are not there yet (one line, once, where no Chrome can draw them)."""
        page = pages.write_page(self.folder / "index.html", self.title, self.blocks)
        say(f"{time.perf_counter() - self.started:.0f} s: wrote {page}")
        new = {self.folder / f"{name}.png": figure for name, figure in self.pictures.items()}
        self.pictures.clear()
        if not self.draws:
            return
        try:
            for picture in figures.write_images(new):
                say(f"{time.perf_counter() - self.started:.0f} s: wrote {picture}")
        except ChromeMissingError as error:
            self.draws = False
            say(f"no PNG: {error}")


def strongest(result: EffectResult, k: int = 3) -> str:
    """The largest effects in words, as in `L23H3 0.37 [0.30, 0.42]`; bare names where effects are undefined."""
    rows = result.top(k).to_dict("records")
    said = []
    for row in rows:
        place = f"L{row['layer']}" + (f"H{row['head']}" if "head" in row else "")
        place += f" at {row['position']}" if "position" in row else ""
        said.append(f"{place} {row['effect']:.2f} [{row['low']:.2f}, {row['high']:.2f}]" if "effect" in row else place)
    return ", ".join(said) + (" (by change in the metric: effects are undefined)" if result.effect_undefined else "")


def attention_of(model: mk.HookedModel, prompt: Sequence[int], heads: Sequence[tuple[int, int]]) -> go.Figure:
    """The attention patterns of a few heads on one prompt."""
    run = model.run([list(prompt)], read=[f"pattern.{layer}" for layer, _ in heads], logits=None)
    patterns = torch.stack([run[f"pattern.{layer}.{head}"][0] for layer, head in heads]).float().cpu().numpy()
    tokens = model.to_str_tokens(prompt) if model.tokenizer else [str(token) for token in prompt]
    names = [f"L{layer}H{head}" for layer, head in heads]
    return figures.attention(
        patterns, tokens, heads=names, title="Attention of the strongest heads on the first prompt"
    )
