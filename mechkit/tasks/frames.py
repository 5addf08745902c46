"""Sentence frames: which of them a task uses, and which of them a tokenizer can write."""

import string
from collections.abc import Sequence

from ..errors import TaskError
from .tokens import Encoder

Frames = int | Sequence[int] | Sequence[str] | None
"""How many of a task's frames to use (the first ones), or their numbers, or frames of one's own; None = all."""


def choose_frames(chosen: Frames, known: Sequence[str], slots: Sequence[str], *, where: str) -> tuple[str, ...]:
    """Pick from the known frames, or check frames of one's own: they must hold every slot, and end in a word.

    Raises TaskError for a number out of range, a missing slot, or a trailing space.
    """
    if chosen is None:
        return tuple(known)
    if isinstance(chosen, int):
        if not 1 <= chosen <= len(known):
            raise TaskError(f"{where}: templates={chosen}, but there are 1 to {len(known)} to choose from")
        return tuple(known[:chosen])
    if isinstance(chosen, str) or not chosen:
        raise TaskError(f"{where}: templates={chosen!r}; give a count, or a list of numbers or of sentences")
    return tuple(dict.fromkeys(_frame(item, known, slots, where) for item in chosen))


def _frame(item: int | str, known: Sequence[str], slots: Sequence[str], where: str) -> str:
    if isinstance(item, int):
        if not 0 <= item < len(known):
            raise TaskError(f"{where}: template number {item}; they are numbered 0 to {len(known) - 1}")
        return known[item]
    try:
        found = [name for _, name, _, _ in string.Formatter().parse(item) if name is not None]
    except ValueError as error:
        raise TaskError(f"{where}: template {item!r} does not parse: {error}") from error
    allowed = {*slots, "place", "object"} if "S" in slots else set(slots)
    if any(found.count(slot) != 1 for slot in slots) or set(found) - allowed:
        raise TaskError(
            f"{where}: template {item!r} must hold each of {', '.join('{' + slot + '}' for slot in slots)} once"
            f"{' and may hold {place} and {object}' if 'S' in slots else ''}, got {found}"
        )
    if item != item.rstrip():
        raise TaskError(f"{where}: template {item!r} ends in a space; the answer brings its own")
    return item


def split_words(encoder: Encoder, words: Sequence[str]) -> tuple[dict[str, int], dict[str, str]]:
    """Sort words into those that are one token of their own after a space, with its id, and the rest, with why not."""
    kept: dict[str, int] = {}
    out: dict[str, str] = {}
    for word, token in zip(words, encoder.continuations("and", [f" {word}" for word in words]), strict=True):
        if token is None:
            out[word] = "not a single token"
        elif token in kept.values():
            out[word] = "has the same token as another"
        else:
            kept[word] = token
    return kept, out
