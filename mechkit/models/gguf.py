"""GGUF files: dequantised once by transformers, then kept as safetensors under their content's hash.

1. Hash the file; a folder of that name in the cache is the answer.
2. Otherwise let transformers dequantise the tensors to float32 and rebuild the tokenizer.
3. Write both into the cache, whole or not at all.
"""

from pathlib import Path
from typing import Any

from ..errors import BrokenFileError, LoadError
from .families import family_of
from .files import Found, cache_folder, filling, read_facts, sha256_of, weight_files, write_facts
from .pretrained import read_gguf

CONVERSION = "1"
"""Raised when the conversion changes, so that old cached folders are not taken for new ones."""


def gguf_cache(sha256: str) -> Path:
    """Where the conversion of the GGUF file with this hash is kept."""
    return cache_folder() / "gguf" / f"{sha256[:24]}-{CONVERSION}"


def cached_gguf(sha256: str) -> Found | None:
    """The conversion of the GGUF file with this hash, if it was made before."""
    folder = gguf_cache(sha256)
    return Found(folder, read_facts(folder)) if folder.is_dir() else None


def convert_gguf(path: Path) -> Found:
    """The folder with this file's weights as float32 safetensors, made where it does not exist yet.

    Errors: BrokenFileError for a file that is no GGUF or is cut short, UnsupportedArchitectureError, LoadError where
    the gguf package is missing.
    """
    sha256 = sha256_of(path)
    if known := cached_gguf(sha256):
        return known
    quantisation, with_tokenizer = _inspect(path)
    model, tokenizer = read_gguf(path, with_tokenizer)
    family_of(model)  # an unknown architecture is refused before anything is written
    model = _saveable(model)
    with filling(gguf_cache(sha256)) as folder:
        model.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        facts = {
            "quantisation": f"{quantisation} (GGUF, dequantised)",
            "gguf_file": path.name,
            "gguf_sha256": sha256,
            "weights_sha256": sha256_of(*weight_files(folder)),
        }
        write_facts(folder, facts)
    return Found(gguf_cache(sha256), facts)


def _inspect(path: Path) -> tuple[str, bool]:
    """Check that the file is whole; its own name for its quantisation (Q4_1), and whether it holds a tokenizer."""
    try:
        from gguf import GGUFReader, LlamaFileType
    except ImportError as error:
        raise LoadError(f"{path}: GGUF files need the gguf package; pip install 'mechkit-interp[gguf]'") from error
    try:
        reader = GGUFReader(path)
        kind = reader.get_field("general.file_type")
        name = LlamaFileType(kind.contents()).name if kind is not None else "unnamed quantisation"
        with_tokenizer = reader.get_field("tokenizer.ggml.tokens") is not None
    except (ValueError, IndexError, KeyError, OverflowError, OSError) as error:
        size = path.stat().st_size
        raise BrokenFileError(
            f"{path}: expected a whole GGUF file, got {size:,} bytes that break off early ({error}); fetch it again"
        ) from error
    return name.removeprefix("MOSTLY_").removeprefix("ALL_"), with_tokenizer


def _saveable(model: Any) -> Any:
    """The same model without its GGUF origin; transformers refuses to save one that says it is still quantised."""
    import torch
    from transformers import AutoModelForCausalLM

    config = model.config
    del config.quantization_config
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    return plain
