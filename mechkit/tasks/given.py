"""Tasks from pairs of one's own.

Steps: encode prompts given as text; find the single token of every answer and foil, after the prompt it follows; find
named positions; drop what does not fit, with a count and an example for each reason; check what is left.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Shaped
from torch import Tensor

from ..errors import MissingTokenizerError, TaskError
from .drawing import Draft, to_pairs, warn_dropped
from .metrics import cross_entropy, logit_difference
from .pairs import END
from .task import Task
from .tokens import Encoder, ModelOrTokenizer, encoder, find_tokenizer

Prompt = str | Sequence[int]
Choice = str | int | Sequence[str] | Sequence[int]
Ids = Shaped[Tensor, "..."] | Shaped[np.ndarray, "..."]
Listed = Ids | Sequence[Ids]
"""Ids as tensors or arrays: one for all pairs, or one per pair."""
Place = int | Sequence[int]
"""A token's number (negative counts from the end), or the (start, end) characters of a word in the clean text."""

REPEATED = "repeats an earlier pair"
OUTSIDE = "a token id is outside the vocabulary"


@dataclass(frozen=True)
class Row:
    """One pair as it was given; `where` says from which row or line, for messages."""

    where: str
    clean: Prompt
    corrupted: Prompt
    answer: Choice
    foil: Choice = ()
    template: str = ""
    words: tuple[str, ...] = ()
    positions: Mapping[str, Place] = field(default_factory=dict)


def from_tokens(
    clean: Sequence[Prompt] | Listed,
    corrupted: Sequence[Prompt] | Listed,
    answer: Sequence[Choice] | Listed,
    foil: Sequence[Choice] | Listed | None = None,
    *,
    model: ModelOrTokenizer = None,
    positions: Mapping[str, Sequence[Place]] | None = None,
    templates: Sequence[str] | None = None,
    words: Sequence[Sequence[str]] | None = None,
) -> Task:
    """A task from one's own pairs: lists or tensors of token ids, or texts (which need a model or tokenizer).

    `answer` and `foil` hold one choice per pair: an id, a text that is one token after the prompt (mind the leading
    space), or a list of these. `positions` names one place per pair, as a token number or as the (start, end)
    characters of a word in the clean text, whose last token is meant; END is the last token unless named. `templates`
    and `words` label the pairs for splitting and clusters. The metric is the logit difference where there are foils,
    else the cross-entropy; change it with `task.with_metric`.

    Pairs of unequal length or with answers of several tokens are dropped, with a warning and a count in `task.dropped`.
    Raises TaskError when none is left, or when the lists differ in length.
    """
    columns: dict[str, Any] = {"clean": clean, "corrupted": corrupted, "answer": answer, "foil": foil}
    columns |= {"templates": templates, "words": words}
    columns |= {f"positions[{name!r}]": places for name, places in (positions or {}).items()}
    lists = {name: _plain(values) for name, values in columns.items() if values is not None}
    size = len(lists["clean"])
    for name, values in lists.items():
        if isinstance(values, str) or len(values) != size:
            got = "one text" if isinstance(values, str) else f"{len(values)}"
            raise TaskError(f"from_tokens: {name} must be a list of {size}, one per clean prompt, got {got}")
    rows = [
        Row(
            where=f"pair {index}",
            clean=lists["clean"][index],
            corrupted=lists["corrupted"][index],
            answer=lists["answer"][index],
            foil=lists["foil"][index] if "foil" in lists else (),
            template=lists["templates"][index] if "templates" in lists else "",
            words=tuple(lists["words"][index]) if "words" in lists else (),
            positions={name: lists[f"positions[{name!r}]"][index] for name in positions or {}},
        )
        for index in range(size)
    ]
    return task_from_rows(rows, model, name="from_tokens")


def _plain(values: Any) -> Any:
    """Without tensors and arrays, as a whole or one per pair."""
    if isinstance(values, Tensor | np.ndarray):
        values = values.tolist()
    if isinstance(values, str):
        return values
    return [value.tolist() if isinstance(value, Tensor | np.ndarray) else value for value in values]


def task_from_rows(rows: Sequence[Row], model: ModelOrTokenizer, *, name: str) -> Task:
    """Check each row, drop what does not fit, and make the task; see `from_tokens`."""
    if not rows:
        raise TaskError(f"{name}: no pairs were given; give at least one")
    written = [row for row in rows if isinstance(row.clean, str) or isinstance(row.corrupted, str)]
    tokenizer = find_tokenizer(model)
    if written and tokenizer is None:
        raise MissingTokenizerError(
            f"{name}, {written[0].where}: the prompt is text, and there is no tokenizer; pass model= (a model with a "
            "tokenizer, or a tokenizer), or give token ids"
        )
    reader = _Reader(None if tokenizer is None else encoder(model, where=name), getattr(model, "d_vocab", None))
    drafts: dict[tuple[object, ...], Draft] = {}
    dropped: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for row in rows:
        try:
            draft = reader.read(row)
        except _Unfit as unfit:
            reason, example = unfit.args
        else:
            key = (draft.clean, draft.corrupted, draft.answers, draft.foils)
            if key not in drafts:
                drafts[key] = draft
                continue
            reason, example = REPEATED, ""
        dropped[reason] += 1
        examples.setdefault(reason, f"{row.where}: {example or reason}")
    if not drafts:
        found = "; ".join(f"{count} × {reason} (for example {examples[reason]})" for reason, count in dropped.items())
        raise TaskError(
            f"{name}: none of {len(rows)} pairs can be used: {found}. Clean and corrupted must have equally many "
            "tokens, and every answer and foil must be one token, as it follows the prompt"
        )
    if dropped:
        warn_dropped(name, dropped, len(rows))
    kept = list(drafts.values())
    _check_names(kept, name)
    foils = [bool(draft.foils) for draft in kept]
    return Task(
        name=name,
        pairs=to_pairs(kept),
        metric=logit_difference if all(foils) else cross_entropy,
        description=f"{len(kept)} given pairs",
        dropped=dict(dropped),
        tokenizer=tokenizer,
    )


class _Unfit(Exception):
    """A row that cannot be a pair: the reason, and this row's example of it."""


@dataclass(frozen=True)
class _Reader:
    """Turns rows into drafts for one tokenizer and vocabulary, either of which may be unknown."""

    encoder: Encoder | None
    d_vocab: int | None

    def read(self, row: Row) -> Draft:
        """Read one row; raises _Unfit when it must be dropped, TaskError when it is not a pair at all."""
        clean, corrupted = self._prompt(row, row.clean), self._prompt(row, row.corrupted)
        answers, foils = self._choices(row, "answer", clean), self._choices(row, "foil", clean)
        if not answers:
            raise TaskError(f"{row.where}: no answer; give at least one")
        draft = Draft(clean, corrupted, answers, foils, self._positions(row, clean), row.template, row.words)
        fault = draft.fault()
        if fault:
            raise _Unfit(fault, f"{len(clean)} and {len(corrupted)} tokens, {row.clean!r} and {row.corrupted!r}")
        largest = max(*clean, *corrupted, *answers, *foils)
        if self.d_vocab is not None and largest >= self.d_vocab:
            raise _Unfit(OUTSIDE, f"{largest}, and the vocabulary has {self.d_vocab}")
        return draft

    def _prompt(self, row: Row, prompt: Prompt) -> tuple[int, ...]:
        if isinstance(prompt, str):
            assert self.encoder is not None  # task_from_rows has refused this
            return self.encoder.prompts([prompt])[0] if prompt else ()
        return tuple(_whole(row, "prompt", token) for token in prompt)

    def _choices(self, row: Row, kind: str, clean: tuple[int, ...]) -> tuple[int, ...]:
        given = row.answer if kind == "answer" else row.foil
        choices = [given] if isinstance(given, str | int | np.integer) else list(given)
        tokens = [
            self._token(row, kind, choice) if isinstance(choice, str) else _whole(row, kind, choice)
            for choice in choices
        ]
        return tuple(dict.fromkeys(tokens))

    def _token(self, row: Row, kind: str, text: str) -> int:
        if self.encoder is None:
            raise MissingTokenizerError(
                f"{row.where}: the {kind} {text!r} is text, and there is no tokenizer; pass model="
            )
        context = row.clean if isinstance(row.clean, str) else ""
        token, spaced = self.encoder.continuations(context, [text, f" {text}"])
        if token is None:
            count = len(self.encoder.encode([text])[0])
            hint = f"; {f' {text}'!r}, with a leading space, is one" if spaced is not None else ""
            raise _Unfit(
                f"the {kind} is not a single token", f"{text!r} is {count} tokens, unknown, or joins the prompt{hint}"
            )
        return token

    def _positions(self, row: Row, clean: tuple[int, ...]) -> dict[str, int]:
        places = {name: self._place(row, name, place, clean) for name, place in row.positions.items()}
        return {**places, END: places.get(END, len(clean) - 1)}

    def _place(self, row: Row, name: str, place: Place, clean: tuple[int, ...]) -> int:
        if isinstance(place, int | np.integer):
            where = int(place) + (len(clean) if place < 0 else 0)
            if not 0 <= where < len(clean):
                raise _Unfit("a position is outside the prompt", f"{name}={place} of {len(clean)} tokens")
            return where
        if self.encoder is None or not isinstance(row.clean, str):
            raise TaskError(
                f"{row.where}: position {name} is given in characters, {place!r}, but the prompt is token ids"
            )
        if not isinstance(place, Sequence) or len(place) != 2:
            raise TaskError(
                f"{row.where}: position {name} is {place!r}; expected a token number, or [start, end] characters"
            )
        start, end = (_whole(row, f"position {name}", number) for number in place)
        if not 0 <= start < end <= len(row.clean):
            raise _Unfit("a position is outside the prompt", f"{name}={place} of {len(row.clean)} characters")
        head = self.encoder.prompts([row.clean[:end]])[0]
        if clean[: len(head)] != head:
            raise _Unfit("a position does not end where a token ends", f"{name}={row.clean[start:end]!r}")
        return len(head) - 1


def _whole(row: Row, kind: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or (value < 0):
        raise TaskError(f"{row.where}: {kind} {value!r} is no token id or number; expected whole numbers from 0 up")
    return int(value)


def _check_names(drafts: Sequence[Draft], name: str) -> None:
    for number, draft in enumerate(drafts):
        if set(draft.positions) != set(drafts[0].positions):
            raise TaskError(
                f"{name}: the first pair names the positions {sorted(drafts[0].positions)}, pair {number} of those "
                f"kept {sorted(draft.positions)}; name the same positions in every pair"
            )
