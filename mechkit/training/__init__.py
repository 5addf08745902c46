"""Small decoders trained on idealised settings."""

from .indirect_object import SmallIOISettings, ioi_tokenizer, small_ioi
from .loop import Batch, TrainingSettings, train_decoder
from .tokenizer import word_tokenizer

__all__ = [
    "Batch",
    "SmallIOISettings",
    "TrainingSettings",
    "ioi_tokenizer",
    "small_ioi",
    "train_decoder",
    "word_tokenizer",
]
