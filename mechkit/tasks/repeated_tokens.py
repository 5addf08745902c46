"""Induction on random tokens: "… A B … A" → B.

Elhage et al. 2021 and Olsson et al. 2022 (arXiv 2209.11895): a block of random tokens is repeated, and the token that
followed the earlier occurrence comes next. Steps: draw a block of different tokens of random length (the period, so
that looking back by a fixed offset cannot solve it); repeat it up to a random place; break the pattern in the first
block alone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ..errors import TaskError
from .drawing import BATCH, Draft, Recipe, check_whole, pick, rounds
from .metrics import logit_difference
from .pairs import END
from .task import Task, draw_task
from .tokens import ModelOrTokenizer, encoder, find_tokenizer, ordinary_tokens

Corruption = Literal["exchange", "successor", "prefix"]


def induction(
    model: ModelOrTokenizer,
    n: int = 64,
    seed: int = 0,
    *,
    corruption: Corruption = "exchange",
    periods: tuple[int, int] = (6, 24),
    same_length: bool = False,
    bos: bool | None = None,
) -> Task:
    """Induction: complete the second run through a block of random tokens.

    The metric is the logit difference between the right successor and the foil at END. Positions: `A1` (the earlier
    occurrence of the token at END), `B1` (its successor, the answer), `END`. Tokens are ordinary ones, without special
    and added tokens, all different within a block. `model` may be a model with or without tokenizer, a tokenizer, or a
    vocabulary size. `periods`: the shortest and the longest block, in tokens; prompts run to less than twice that.

    How the corrupted prompt, of equal length, is made:

    - "exchange" (default): B1 changes places with a later token D of the first block, which is the foil. Both prompts
      hold the same tokens, so that preferring tokens that occurred at all cannot show as an effect: who follows A is
      all that differs. There is one more position, `D1`.
    - "successor": B1 becomes a token that is not in the prompt, which is the foil.
    - "prefix": A1 becomes a token that is not in the prompt, so that nothing matches the token at END. The foil is a
      later token of the first block.

    Raises TaskError when the vocabulary is too small for the longest block, or n distinct pairs cannot be drawn.
    """
    if corruption not in get_args(Corruption):
        raise TaskError(f"induction: corruption={corruption!r}; expected one of {', '.join(get_args(Corruption))}")
    shortest, longest = periods
    check_whole("induction: the shortest of periods", shortest, 4)
    check_whole("induction: the longest of periods", longest, shortest)
    tokens = ordinary_tokens(model, where="induction")
    if len(tokens) < longest + 1:
        raise TaskError(
            f"induction: a block of {longest} different tokens and one other are needed, the vocabulary has "
            f"{len(tokens)} ordinary ones; give smaller periods=({shortest}, …)"
        )
    tokenizer = None if isinstance(model, int) else find_tokenizer(model)
    if tokenizer is None and bos:
        raise TaskError("induction: bos=True needs a tokenizer, and there is none; leave bos out")
    recipe = RepeatedTokens(
        templates=tuple(f"period {period}" for period in range(shortest, longest + 1)),
        pools={"token": tuple(str(token) for token in tokens)},
        prefix=() if tokenizer is None else encoder(model, bos=bos, where="induction").prefix,
        corruption=corruption,
    )
    return draw_task(
        "induction",
        recipe.with_common_length(seed) if same_length else recipe,
        n,
        seed,
        metric=logit_difference,
        description=f"induction on random tokens, periods {shortest} to {longest}, corruption {corruption}",
        tokenizer=tokenizer,
        cluster_by="pair",
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class RepeatedTokens(Recipe):
    """The recipe of `induction`. Pool: token, the ids as text; templates are the periods."""

    prefix: tuple[int, ...]
    corruption: Corruption

    @property
    def needed(self) -> Mapping[str, int]:
        """How many words of each pool one pair takes: the longest block, and one that is not in it."""
        return {"token": max(int(label.split()[1]) for label in self.templates) + 1}

    def batches(self, generator: np.random.Generator) -> Iterator[list[Draft | str]]:
        """Deal periods and fill the blocks with tokens."""
        periods = rounds(generator, self.templates)
        while True:
            yield [self._draft(generator, next(periods)) for _ in range(BATCH)]

    def _draft(self, generator: np.random.Generator, label: str) -> Draft | str:
        period = int(label.split()[1])
        words = pick(generator, self.pools["token"], period + 1)
        *block, outsider = (int(word) for word in words)
        # at: place of A in the block; not the first, which many models use as a sink of attention
        at = int(generator.integers(1, period - 2))
        later = int(generator.integers(at + 2, period))
        repeat = tuple(block[: at + 1])
        broken = list(block)
        foil = block[later]
        if self.corruption == "exchange":
            broken[at + 1], broken[later] = foil, block[at + 1]
        elif self.corruption == "successor":
            broken[at + 1] = foil = outsider
        else:
            broken[at] = outsider
        start = len(self.prefix)
        positions = {"A1": start + at, "B1": start + at + 1}
        if self.corruption == "exchange":
            positions["D1"] = start + later
        return Draft(
            clean=self.prefix + tuple(block) + repeat,
            corrupted=self.prefix + tuple(broken) + repeat,
            answers=(block[at + 1],),
            foils=(foil,),
            positions={**positions, END: start + period + at},
            template=label,
            words=tuple(words),
        )
