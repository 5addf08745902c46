"""Small tokenizers of the kinds there are, made of the words that the tasks use; no files and no network."""

import functools
import re
from collections.abc import Sequence

from mechkit.tasks import words

WORD = r" ?[A-Za-z]+"
PIECES = {
    # a space and every digit are tokens of their own, as in SmolLM2
    "digits": rf"{WORD}| |\d|[^\w\s]",
    # years are two tokens of two digits, the first with its space, as in GPT-2
    "two_digits": rf"{WORD}| ?\d{{1,2}}|[^\w\s]",
    # up to three digits from the left, as in Llama 3
    "three_digits": rf"{WORD}| |\d{{1,3}}|[^\w\s]",
    # a year is one token
    "years": rf"{WORD}| ?\d+|[^\w\s]",
}
LISTS = (words.NAMES, words.PLACES, words.OBJECTS, words.NOUNS)
# frames without their slots, so that every piece but the filled-in words is known
FRAMES = tuple(re.sub(r"\{\w+\}", "X", frame) for frame in (*words.IOI_FRAMES, *words.YEAR_FRAMES))


@functools.cache
def make(kind: str = "digits", *, adds_bos: bool = False, without: tuple[str, ...] = (), extra: tuple[str, ...] = ()):
    """A word-level tokenizer whose pieces keep their leading space; `without` leaves out pieces of the vocabulary."""
    texts = [f" {word}" for group in LISTS for word in group] + list(FRAMES) + list(extra)
    texts += [str(number) for number in range(1000)] + [f"{number:02d}" for number in range(100)]
    texts += [f" {number}" for number in range(100)] + (
        [f" {year}" for year in range(1000, 2000)] if kind == "years" else []
    )
    pieces = sorted({piece for text in texts for piece in re.findall(PIECES[kind], text)} - set(without))
    return build(["<s>", "<unk>", *pieces], PIECES[kind], adds_bos=adds_bos)


def build(vocabulary: Sequence[str], pattern: str, *, adds_bos: bool = False):
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")


def text(tokenizer, tokens: Sequence[int]) -> str:
    """The exact text: the pieces keep their spaces, so joining them is decoding."""
    return "".join(tokenizer.convert_ids_to_tokens(list(tokens)))
