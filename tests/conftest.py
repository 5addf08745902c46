"""Shared fixtures: tiny random models of every family, a tiny tokenizer, the real language model, the shared data.

Every annotation of mechkit is checked at run time in the tests, so the import hook comes before mechkit is imported.
Fixtures are session-wide and never to be changed by a test: mechkit itself promises to leave models as they were.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from torch import nn

jaxtyping.install_import_hook("mechkit", "typechecking.checked")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive a fork, and warn about it
torch.set_num_threads(1)  # two threads on shared cores are slower than one

D_VOCAB = 1024  # at least the vocabulary of `word_tokenizer`
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

LLAMA_LIKE: dict[str, Any] = {
    "vocab_size": D_VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """Build a module with its own random state, biases and norms included, in evaluation mode."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        module = build()
        for parameter in module.parameters():
            if parameter.dim() == 1:  # otherwise biases are all 0 and norms all 1, and nothing would test them
                parameter.add_(0.2 * torch.randn_like(parameter))
    return module.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def tiny_gpt2() -> nn.Module:
    """GPT-2: 3 layers, 4 heads, d_model 32, learned positions, tied embeddings."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=D_VOCAB,
        n_embd=32,
        n_layer=3,
        n_head=4,
        n_positions=64,
        initializer_range=0.2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    return seeded(lambda: GPT2LMHeadModel(config))


@pytest.fixture(scope="session")
def tiny_llama() -> nn.Module:
    """Llama: 3 layers, 4 heads on 2 key/value heads, d_model 32, rotary positions, embeddings not tied."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return seeded(lambda: LlamaForCausalLM(LlamaConfig(**LLAMA_LIKE)))


@pytest.fixture(scope="session")
def tiny_qwen2() -> nn.Module:
    """Qwen2: like `tiny_llama` with query, key and value biases, and tied embeddings."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return seeded(lambda: Qwen2ForCausalLM(Qwen2Config(**LLAMA_LIKE, tie_word_embeddings=True)))


@pytest.fixture(scope="session")
def tiny_mistral() -> nn.Module:
    """Mistral: like `tiny_llama` with a sliding window of 4 tokens."""
    from transformers import MistralConfig, MistralForCausalLM

    return seeded(lambda: MistralForCausalLM(MistralConfig(**LLAMA_LIKE, sliding_window=4)))


@pytest.fixture(scope="session")
def tiny_models(
    tiny_gpt2: nn.Module, tiny_llama: nn.Module, tiny_qwen2: nn.Module, tiny_mistral: nn.Module
) -> dict[str, nn.Module]:
    """One tiny random Hugging Face model of every supported family, by name."""
    return {"gpt2": tiny_gpt2, "llama": tiny_llama, "qwen2": tiny_qwen2, "mistral": tiny_mistral}


@pytest.fixture(scope="session")
def tiny_decoders() -> dict[str, nn.Module]:
    """Random decoders of our own, by what sets them apart: 3 layers, 4 heads, d_model 32, d_mlp 64, context 64."""
    from mechkit.models import Decoder, DecoderConfig

    plain: dict[str, Any] = {"n_layers": 3, "n_heads": 4, "d_model": 32, "d_vocab": D_VOCAB, "n_context": 64}
    variants: dict[str, dict[str, Any]] = {
        "mlp": {"d_mlp": 64},
        "attention_only": {},
        "no_norm": {"d_mlp": 64, "normalization": None, "activation": "relu"},
        "rms": {"d_mlp": 64, "normalization": "rms", "activation": "silu", "bias": False},
        "rotary": {"d_mlp": 64, "positions": "rotary"},
        "no_positions": {"d_mlp": 64, "positions": None},
        "bidirectional": {"d_mlp": 64, "causal": False},
    }
    configs = {name: DecoderConfig(**plain, **changes) for name, changes in variants.items()}
    return {name: seeded(lambda config=config: Decoder(config)) for name, config in configs.items()}


@pytest.fixture(scope="session")
def word_tokenizer() -> Any:
    """A word-level tokenizer of the indirect-object sentences; one word with its leading space is one token."""
    from mechkit.training import ioi_tokenizer

    return ioi_tokenizer()


@pytest.fixture(scope="session")
def smollm2() -> Any:
    """SmolLM2-135M-Instruct as a HookedModel on the CPU; for tests marked `real`."""
    from mechkit.errors import NetworkError
    from mechkit.models import load

    try:
        return load("smollm2-135m-instruct", device="cpu")
    except NetworkError as error:
        pytest.skip(f"the real model cannot be had: {error}")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of trained models that lies beside the checkout on some machines."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder ../shared/data is not beside this checkout")
    return SHARED_DATA
