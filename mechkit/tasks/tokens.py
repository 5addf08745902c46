"""From text to token ids, for any Hugging Face tokenizer, without special tokens slipping in.

A word's token is found in context, as what encoding `context + word` adds to encoding `context`: some tokenizers
encode a word differently at the start of a text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import MissingTokenizerError, TaskError

ModelOrTokenizer = Any
"""A HookedModel (anything with `.tokenizer`), or a tokenizer as Hugging Face makes them."""


@dataclass(frozen=True, repr=False)
class Encoder:
    """A tokenizer with the tokens that every prompt begins with: none, or the beginning-of-text token."""

    tokenizer: Any
    prefix: tuple[int, ...] = ()

    @property
    def unknown(self) -> int | None:
        """The id that stands for words outside the vocabulary, if there is one."""
        token: int | None = getattr(self.tokenizer, "unk_token_id", None)
        return token

    def encode(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Encode each text alone, with no special tokens and no prefix."""
        if not texts:
            return []
        rows = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return [tuple(int(token) for token in row) for row in rows]

    def prompts(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Encode each text as a prompt: prefix, then text."""
        return [self.prefix + row for row in self.encode(texts)]

    def continuations(self, context: str, words: Sequence[str]) -> list[int | None]:
        """The one token that each word adds to the context; None where it adds several, or an unknown one."""
        head, *joined = self.encode([context, *(context + word for word in words)])
        single = [row[-1] if row[:-1] == head else None for row in joined]
        return [None if token == self.unknown else token for token in single]

    def covers(self, text: str) -> bool:
        """Whether the text encodes without unknown words."""
        row = self.encode([text])[0]
        return bool(row) and self.unknown not in row


def encoder(source: ModelOrTokenizer, *, bos: bool | None = None, where: str) -> Encoder:
    """Find the tokenizer of a model, or take it as it is.

    `bos`: begin prompts with the beginning-of-text token; None does as the tokenizer does by itself.
    Raises MissingTokenizerError when there is none, TaskError when `bos` is asked for and there is no such token.
    """
    tokenizer = find_tokenizer(source)
    if tokenizer is None:
        raise MissingTokenizerError(
            f"{where}: {type(source).__name__} has no tokenizer, and this task is made of words; load the model with "
            "tokenizer=..., pass a tokenizer, or use tasks.induction or tasks.from_tokens with token ids"
        )
    first = getattr(tokenizer, "bos_token_id", None)
    if bos and first is None:
        raise TaskError(f"{where}: bos=True, but this tokenizer has no beginning-of-text token; leave bos out")
    if bos is None:
        bare, full = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
        bos = first is not None and len(full) > len(bare) and full[0] == first
    return Encoder(tokenizer, (int(first),) if bos and first is not None else ())


def find_tokenizer(source: ModelOrTokenizer) -> Any:
    """The tokenizer of a model, or the source itself where it is one; None where there is none."""
    if hasattr(source, "tokenizer"):
        return source.tokenizer
    return source if callable(source) and hasattr(source, "decode") else None


def ordinary_tokens(source: ModelOrTokenizer, *, where: str) -> tuple[int, ...]:
    """All ids of a vocabulary but special and added tokens; `source` may also be a vocabulary size.

    A model without a tokenizer gives `range(model.d_vocab)`.
    """
    tokenizer = None if isinstance(source, int) else find_tokenizer(source)
    size = source if isinstance(source, int) else getattr(source, "d_vocab", None)
    if tokenizer is None and size is None:
        raise TaskError(
            f"{where}: {type(source).__name__} has neither a tokenizer nor d_vocab; give a model, a tokenizer, or the "
            "size of the vocabulary"
        )
    if tokenizer is None:
        return tuple(range(int(size or 0)))
    special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    ids = sorted(set(tokenizer.get_vocab().values()) - special)
    return tuple(token for token in ids if size is None or token < size)


def shown(tokenizer: Any, tokens: Sequence[int]) -> str:
    """The text of some tokens, or their ids where there is no tokenizer."""
    if tokenizer is None:
        return " ".join(str(token) for token in tokens)
    text: str = tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False)
    return text
