"""Architecture families: which module is which, and where its sites are."""

from torch import nn

from ...errors import UnsupportedArchitectureError
from ..decoder import Decoder
from .base import Family, Place, is_plain
from .decoder import DecoderFamily
from .gpt2 import GPT2Family
from .llama import LlamaFamily

HUGGING_FACE_FAMILIES: dict[str, type[GPT2Family] | type[LlamaFamily]] = {
    "gpt2": GPT2Family,
    "llama": LlamaFamily,
    "qwen2": LlamaFamily,
    "mistral": LlamaFamily,
}
"""Hugging Face `model_type` -> family."""

__all__ = ["HUGGING_FACE_FAMILIES", "Family", "Place", "family_of", "is_plain"]


def family_of(module: nn.Module) -> Family:
    """The family that knows this module.

    Errors: UnsupportedArchitectureError that names the known families, or says that the language-model head is
    missing.
    """
    if isinstance(module, Decoder):
        return DecoderFamily(module)
    kind = getattr(getattr(module, "config", None), "model_type", None)
    family = HUGGING_FACE_FAMILIES.get(str(kind))
    if family is None:
        what = f"model_type {kind!r}" if kind else f"a plain {type(module).__name__}"
        raise UnsupportedArchitectureError(
            f"no adapter for {what}; known are {', '.join(HUGGING_FACE_FAMILIES)} and mechkit's own Decoder. "
            "A new family is a subclass of mechkit.models.families.Family: it says where layers, projections and "
            "norms are (its abstract methods), and is named in HUGGING_FACE_FAMILIES"
        )
    if not hasattr(module, "lm_head"):
        raise UnsupportedArchitectureError(
            f"{type(module).__name__} has no unembedding, so it has no logits; load the ...ForCausalLM "
            "(GPT2LMHeadModel, LlamaForCausalLM, …) class instead"
        )
    return family(module)
