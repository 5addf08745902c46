"""Greater-than: "The war lasted from the year 1743 to the year 174" → a digit above 3.

Hanna et al. 2023, "How does GPT-2 compute greater-than?" (arXiv 2305.00586). There a year is two two-digit tokens
("17" "43") and the answer is a two-digit token; with a token per digit the same question is put to the last digit.
Steps: look how the tokenizer splits years and choose the variant; find the token of every ending in context; fill
frames with nouns and years; keep the pairs whose prompts differ in the ending of the start year alone.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..errors import TaskError
from .drawing import BATCH, LENGTHS_DIFFER, Draft, Recipe, pick, rounds
from .frames import Frames, choose_frames
from .metrics import probability_difference
from .pairs import END
from .task import Task, draw_task
from .tokens import Encoder, ModelOrTokenizer, encoder
from .words import NOUNS, YEAR_FRAMES

Variant = Literal["units", "two_digits"]

_ENDINGS: Mapping[str, tuple[str, ...]] = {
    "units": tuple(str(digit) for digit in range(10)),
    "two_digits": tuple(f"{number:02d}" for number in range(100)),
}
# the ending that constrains nothing: every later year of the decade or century is above it
_UNCONSTRAINED: Mapping[str, str] = {"units": "0", "two_digits": "01"}
_CENTURIES = range(11, 18)
_NOT_ALIGNED = "the year does not end in a token of its own"


def greater_than(
    model: ModelOrTokenizer,
    n: int = 64,
    seed: int = 0,
    *,
    variant: Variant | None = None,
    templates: Frames = None,
    same_length: bool = False,
    bos: bool | None = None,
) -> Task:
    """Greater-than: an event cannot end before it began.

    The metric is the probability of all endings above the start year's minus that of all others. Positions: `NOUN`,
    `XX1` (the token before the start year's ending), `YY` (that ending, where clean and corrupted differ), `END`.

    `variant`: "units" asks for the last digit ("… 1743 to the year 174"), "two_digits" for the last two ("… to the
    year 17"); None takes the first of the two that fits how this tokenizer splits years. Corrupted: the start year
    ends in 0 (units) or 01 (two digits, as in Hanna et al.), which leaves next to nothing excluded. Clean endings run
    from 2 to 8, or 02 to 98, so that both sides hold several answers.

    `templates`: see `Frames`; one's own hold {noun}, {start}, and {cut} at the end. `templates=[0]` is the sentence of
    the paper. `same_length` keeps prompts of the commonest length only. `bos`: begin with the beginning-of-text token.

    Raises TaskError when years split in another way, or n distinct pairs cannot be drawn.
    """
    if variant is not None and variant not in _ENDINGS:
        raise TaskError(f"greater_than: variant={variant!r}; expected one of {', '.join(_ENDINGS)}, or None")
    frames = choose_frames(templates, YEAR_FRAMES, ("noun", "start", "cut"), where="greater_than")
    crooked = [frame for frame in frames if not frame.endswith("{cut}")]
    if crooked:
        raise TaskError(f"greater_than: template {crooked[0]!r} must end in {{cut}}, where the answer goes on")
    recipe = _recipe(encoder(model, bos=bos, where="greater_than"), frames, variant)
    return draw_task(
        "greater_than",
        recipe.with_common_length(seed) if same_length else recipe,
        n,
        seed,
        metric=probability_difference,
        description=f"greater-than over years, {recipe.variant.replace('_', ' ')}",
        tokenizer=recipe.encoder.tokenizer,
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class YearComparison(Recipe):
    """The recipe of `greater_than`. Pools: noun, and cut: the part of the year that both years share."""

    encoder: Encoder
    variant: Variant
    endings: Mapping[str, int]

    @property
    def needed(self) -> Mapping[str, int]:
        """How many words of each pool one pair takes."""
        return {"noun": 1, "cut": 1}

    def batches(self, generator: np.random.Generator) -> Iterator[list[Draft | str]]:
        """Deal frames, fill them with nouns and years, and encode both prompts, and the clean one up to the noun."""
        frames = rounds(generator, self.templates)
        starts = _ENDINGS[self.variant][2:-1]
        while True:
            plans, texts = [], []
            for _ in range(BATCH):
                frame, (noun,), (cut,) = (
                    next(frames),
                    pick(generator, self.pools["noun"]),
                    pick(generator, self.pools["cut"]),
                )
                (ending,) = pick(generator, starts)
                plans.append((frame, noun, cut, ending))
                texts += [
                    frame.format(noun=noun, start=cut + ending, cut=cut),
                    frame.format(noun=noun, start=cut + _UNCONSTRAINED[self.variant], cut=cut),
                    frame.partition("{noun}")[0].format(start=cut + ending, cut=cut) + noun,
                ]
            rows = self.encoder.prompts(texts)
            yield [self._draft(plan, *rows[3 * i : 3 * i + 3]) for i, plan in enumerate(plans)]

    def _draft(
        self,
        plan: tuple[str, str, str, str],
        clean: tuple[int, ...],
        corrupted: tuple[int, ...],
        until_noun: tuple[int, ...],
    ) -> Draft | str:
        frame, noun, cut, ending = plan
        if len(clean) != len(corrupted):
            return LENGTHS_DIFFER
        changed = [place for place, (a, b) in enumerate(zip(clean, corrupted, strict=True)) if a != b]
        if len(changed) != 1 or clean[changed[0]] != self.endings.get(ending) or clean[: len(until_noun)] != until_noun:
            return _NOT_ALIGNED
        # the end year must stop where the start year's ending begins, or the next token is another one
        if clean[-1] != clean[changed[0] - 1]:
            return _NOT_ALIGNED
        return Draft(
            clean=clean,
            corrupted=corrupted,
            answers=tuple(token for text, token in self.endings.items() if text > ending),
            foils=tuple(token for text, token in self.endings.items() if text <= ending),
            positions={"NOUN": len(until_noun) - 1, "XX1": changed[0] - 1, "YY": changed[0], END: len(clean) - 1},
            template=frame,
            words=(noun, cut),
        )


def _recipe(encode: Encoder, frames: tuple[str, ...], variant: Variant | None) -> YearComparison:
    tried: tuple[Variant, ...] = ("units", "two_digits") if variant is None else (variant,)
    for kind in tried:
        cuts = _cuts(kind)
        endings = _ending_tokens(encode, kind, cuts)
        if endings is None:
            continue
        nouns = tuple(noun for noun in NOUNS if encode.covers(f" {noun}"))
        kept = tuple(
            frame for frame in frames if nouns and encode.covers(frame.format(noun=nouns[0], start="1743", cut=cuts[0]))
        )
        if not kept:
            raise TaskError(
                "greater_than: no noun or no template can be written with this tokenizer; see tasks.from_tokens"
            )
        left_out = Counter({"noun left out: unknown word": len(NOUNS) - len(nouns)})
        left_out["template left out: unknown word"] = len(frames) - len(kept)
        return YearComparison(
            templates=kept,
            pools={"noun": nouns, "cut": cuts},
            left_out=+left_out,
            encoder=encode,
            variant=kind,
            endings=endings,
        )
    seen = encode.encode(["the year 1743"])[0]
    raise TaskError(
        f"greater_than: expected years that split for {' or '.join(tried)}, but "
        f"'the year 1743' is {[encode.tokenizer.decode([token]) for token in seen]} for this tokenizer; "
        f"{'leave variant out, or ' if variant else ''}build the pairs with tasks.from_tokens"
    )


def _cuts(variant: Variant) -> tuple[str, ...]:
    digits = range(10) if variant == "units" else [""]
    return tuple(f"{century}{digit}" for century in _CENTURIES for digit in digits)


def _ending_tokens(encode: Encoder, variant: Variant, cuts: tuple[str, ...]) -> dict[str, int] | None:
    """The token of every ending after a shared beginning; None where the tokenizer splits years in another way.

    Some years may be one token (1800); an ending's token is the one that most beginnings agree on.
    """
    endings = _ENDINGS[variant]
    found: dict[str, Counter[int]] = {ending: Counter() for ending in endings}
    for cut in cuts[:: len(cuts) // 7]:
        for ending, token in zip(endings, encode.continuations(f"the year {cut}", endings), strict=True):
            if token is not None:
                found[ending][token] += 1
    tokens = {ending: counts.most_common(1)[0][0] for ending, counts in found.items() if counts}
    # with a few endings missing the question is still the same; with many it is another one
    if len(endings) - len(tokens) > len(endings) // 20 or len(set(tokens.values())) < len(tokens):
        return None
    return tokens
