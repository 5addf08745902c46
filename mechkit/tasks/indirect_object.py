"""Indirect object identification: "When Mary and John went to the store, John gave a drink to" → " Mary".

Wang et al. 2023, "Interpretability in the wild" (arXiv 2211.00593). The name that occurs once (IO) is right, the one
that is repeated (S) is wrong. Steps: keep the names that are one token, the places, objects and frames that the
tokenizer can write; deal frames and name orders in turn; find the names in the encoded prompt by their tokens;
check that the corrupted prompt differs at names alone.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ..errors import TaskError
from .drawing import BATCH, LENGTHS_DIFFER, Draft, Recipe, pick, rounds
from .frames import Frames, choose_frames, split_words
from .metrics import logit_difference
from .pairs import END
from .task import Task, draw_task
from .tokens import Encoder, ModelOrTokenizer, encoder
from .words import IOI_FRAMES, NAMES, OBJECTS, PLACES

Order = Literal["both", "ABBA", "BABA"]
Corruption = Literal["swap", "abc", "random_s2"]

_NAMES_NEEDED = {"swap": 2, "random_s2": 3, "abc": 5}
_NOT_ALIGNED = "the names do not line up with the tokens"


def ioi(
    model: ModelOrTokenizer,
    n: int = 64,
    seed: int = 0,
    *,
    order: Order = "both",
    corruption: Corruption = "swap",
    templates: Frames = None,
    same_length: bool = False,
    bos: bool | None = None,
) -> Task:
    """Indirect object identification: which of two names comes next, after the other was repeated.

    The metric is the logit difference IO minus S at END. Positions: `IO`, `S1`, `S1+1` (the token after S1), `S2`,
    `END`.

    `order`: "ABBA" puts IO first in the opening clause ("When IO and S … S gave"), "BABA" puts S first; "both"
    takes turns. `corruption` says how the corrupted prompt, of equal length, is made:

    - "swap" (default): S2 becomes the other name, so the right answer flips and S2 alone differs. This is symmetric
      token replacement, which Zhang & Nanda (arXiv 2309.16042) and Heimersheim & Nanda (arXiv 2404.15255) advise over
      noise: the corrupted prompt stays natural, and the metric moves from + to − rather than to nothing.
    - "abc": IO, S1 and S2 become three other names (p_ABC of Wang et al. 2023). No name is repeated and the answer's
      name is gone, so denoising also finds the parts that carry the names themselves.
    - "random_s2": S2 becomes a third name. Both candidates stay, the repetition goes: what marks S as repeated is
      removed without pointing at the other name.

    `templates`: see `Frames`; one's own hold {A}, {B} and {S}, and may hold {place} and {object}. For a heatmap over
    absolute positions use `templates=1, order="ABBA", same_length=True`: every column is then the same word.
    `same_length` keeps prompts of the commonest length only. `bos`: begin with the beginning-of-text token (None: as
    the tokenizer does by itself).

    Raises TaskError when the tokenizer leaves too few names, or n distinct pairs cannot be drawn.
    """
    if order not in get_args(Order):
        raise TaskError(f"ioi: order={order!r}; expected one of {', '.join(get_args(Order))}")
    if corruption not in get_args(Corruption):
        raise TaskError(f"ioi: corruption={corruption!r}; expected one of {', '.join(get_args(Corruption))}")
    frames = choose_frames(templates, IOI_FRAMES, ("A", "B", "S"), where="ioi")
    recipe = _recipe(encoder(model, bos=bos, where="ioi"), frames, order, corruption)
    return draw_task(
        "ioi",
        recipe.with_common_length(seed) if same_length else recipe,
        n,
        seed,
        metric=logit_difference,
        description=f"indirect object identification, order {order}, corruption {corruption}",
        tokenizer=recipe.encoder.tokenizer,
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class IndirectObject(Recipe):
    """The recipe of `ioi`. Pools: name, place, object."""

    encoder: Encoder
    name_tokens: Mapping[str, int]
    order: Order
    corruption: Corruption

    @property
    def needed(self) -> Mapping[str, int]:
        """How many words of each pool one pair takes."""
        return {"name": _NAMES_NEEDED[self.corruption], "place": 1, "object": 1}

    def batches(self, generator: np.random.Generator) -> Iterator[list[Draft | str]]:
        """Deal frames and orders, fill them with words, and encode both prompts."""
        deals = self._orders(rounds(generator, self.templates))
        while True:
            plans = [self._plan(generator, *next(deals)) for _ in range(BATCH)]
            texts = [text for plan in plans for text in (plan.clean, plan.corrupted)]
            rows = self.encoder.prompts(texts)
            yield [self._draft(plan, *rows[2 * i : 2 * i + 2]) for i, plan in enumerate(plans)]

    def _orders(self, frames: Iterator[str]) -> Iterator[tuple[str, str]]:
        """Give each frame its order; of both, they alternate, and each frame gets the other one the next time."""
        turns: dict[str, int] = {}
        for frame in frames:
            turns[frame] = 1 - turns[frame] if frame in turns else len(turns) % 2
            yield frame, ("ABBA", "BABA")[turns[frame]] if self.order == "both" else self.order

    def _plan(self, generator: np.random.Generator, frame: str, order: str) -> "_Plan":
        names = pick(generator, self.pools["name"], self.needed["name"])
        (place,), (thing,) = pick(generator, self.pools["place"]), pick(generator, self.pools["object"])
        io, subject, *others = names
        wrong = {"swap": (io, subject, io), "random_s2": (io, subject, *others), "abc": tuple(others)}[self.corruption]

        def text(first: str, second: str, third: str) -> str:
            a, b = (first, second) if order == "ABBA" else (second, first)
            return frame.format(A=a, B=b, S=third, place=place, object=thing)

        filled = (word for slot, word in (("{place}", place), ("{object}", thing)) if slot in frame)
        words = (io, subject, *others, *filled)
        return _Plan(text(io, subject, subject), text(*wrong), (io, subject, subject), wrong, frame, words)

    def _draft(self, plan: "_Plan", clean: tuple[int, ...], corrupted: tuple[int, ...]) -> Draft | str:
        io, subject, _ = (self.name_tokens[name] for name in plan.names)
        first, *second = [place for place, token in enumerate(clean) if token == subject] or [-1]
        found = [place for place, token in enumerate(clean) if token == io]
        if len(clean) != len(corrupted):
            return LENGTHS_DIFFER
        if len(found) != 1 or len(second) != 1:
            return _NOT_ALIGNED
        expected = list(clean)
        for place, name in zip((found[0], first, second[0]), plan.replaced, strict=True):
            expected[place] = self.name_tokens[name]
        if tuple(expected) != corrupted:
            return _NOT_ALIGNED
        return Draft(
            clean=clean,
            corrupted=corrupted,
            answers=(io,),
            foils=(subject,),
            positions={"IO": found[0], "S1": first, "S1+1": first + 1, "S2": second[0], END: len(clean) - 1},
            template=plan.frame,
            words=plan.words,
        )


@dataclass(frozen=True)
class _Plan:
    """Both texts of a pair, who is IO, S1 and S2 in each, and what it was made of."""

    clean: str
    corrupted: str
    names: tuple[str, ...]
    replaced: tuple[str, ...]
    frame: str
    words: tuple[str, ...]


def _recipe(encode: Encoder, frames: tuple[str, ...], order: Order, corruption: Corruption) -> IndirectObject:
    tokens, out = split_words(encode, NAMES)
    left_out = Counter(f"name left out: {reason}" for reason in out.values())
    if len(tokens) < _NAMES_NEEDED[corruption]:
        raise TaskError(
            f"ioi: {len(tokens)} of {len(NAMES)} names are a single token of their own for this tokenizer, and "
            f"corruption={corruption!r} needs {_NAMES_NEEDED[corruption]}; use another tokenizer, or tasks.from_tokens"
        )
    pools = {
        "place": tuple(place for place in PLACES if encode.covers(f" {place}")),
        "object": tuple(thing for thing in OBJECTS if encode.covers(f" {thing}")),
    }
    left_out["place or object left out: unknown word"] = len(PLACES) + len(OBJECTS) - sum(map(len, pools.values()))
    kept = tuple(frame for frame in frames if _writable(encode, frame, list(tokens), pools))
    left_out["template left out: unknown word, or its last word joins the answer"] = len(frames) - len(kept)
    if not kept:
        raise TaskError(
            f"ioi: none of {len(frames)} templates can be written with this tokenizer "
            f"({len(pools['place'])} places and {len(pools['object'])} objects can); give templates=[...] of its words"
        )
    return IndirectObject(
        templates=kept,
        pools={"name": tuple(tokens), **{slot: words or ("",) for slot, words in pools.items()}},
        left_out=+left_out,
        encoder=encode,
        name_tokens=tokens,
        order=order,
        corruption=corruption,
    )


def _writable(encode: Encoder, frame: str, names: list[str], pools: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether a frame holds known words only and a name after it is one more token."""
    if any("{" + slot + "}" in frame and not pools[slot] for slot in pools):
        return False
    fill = {slot: (words or ("",))[0] for slot, words in pools.items()}
    text = frame.format(A=names[0], B=names[1], S=names[1], **fill)
    return encode.covers(text) and encode.continuations(text, [f" {names[0]}"])[0] is not None
