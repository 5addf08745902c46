"""Word-level tokenizers for small models: one word with its leading space is one token."""

import re
from collections.abc import Iterable
from typing import Any

UNKNOWN = "<unk>"
PIECE = r" ?\w+| ?[^\s\w]+"


def word_tokenizer(texts: Iterable[str]) -> Any:
    """A Hugging Face tokenizer whose vocabulary is every word in `texts`, with the space before it attached.

    Words and runs of punctuation are the tokens, as in "When Mary" -> "When", " Mary", so that a text in the
    vocabulary decodes back to itself. Unknown words become `<unk>`, id 0. Ids are in alphabetical order.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = sorted({piece for text in texts for piece in re.findall(PIECE, text)})
    vocabulary = {word: index for index, word in enumerate([UNKNOWN, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECE), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=UNKNOWN, clean_up_tokenization_spaces=False)
