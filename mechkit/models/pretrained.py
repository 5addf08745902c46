"""Reading a Hugging Face folder with transformers, and refusing what it would only warn of."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import BrokenFileError, UnsupportedArchitectureError


def read_pretrained(folder: Path, dtype: torch.dtype) -> nn.Module:
    """The causal language model of a folder, its weights and configuration fitting exactly.

    Errors: BrokenFileError where they do not.
    """
    from huggingface_hub.errors import StrictDataclassError

    try:
        module, problems = _read(folder, dtype)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, ZeroDivisionError, StrictDataclassError) as error:
        raise BrokenFileError(
            f"{folder}: config.json and the weights do not make a model ({error}); fetch them again"
        ) from error
    _refuse(folder, problems)
    return module


def read_gguf(path: Path, with_tokenizer: bool) -> tuple[Any, Any]:
    """A GGUF file's model, dequantised to float32, and its tokenizer or None.

    Errors: UnsupportedArchitectureError where transformers cannot translate the file, BrokenFileError where weights
    are missing from it.
    """
    from transformers import AutoTokenizer

    tokenizer = None
    try:
        module, problems = _read(path.parent, torch.float32, gguf_file=path.name)
        if with_tokenizer:
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    except (ValueError, NotImplementedError, KeyError, RuntimeError) as error:
        raise UnsupportedArchitectureError(f"{path}: transformers cannot read this GGUF file ({error})") from error
    _refuse(path, problems)
    return module, tokenizer


def _read(folder: Path, dtype: torch.dtype, **where: Any) -> tuple[Any, list[str]]:
    """The model, and in words what of its weights does not fit: transformers fills that with random numbers."""
    from transformers import AutoModelForCausalLM

    read: Any = AutoModelForCausalLM.from_pretrained
    with _without_bars():
        module, info = read(
            folder,
            dtype=dtype,
            trust_remote_code=False,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # so that they are reported here, with the others
            output_loading_info=True,
            **where,
        )
    problems = [f"missing {name}" for name in sorted(info["missing_keys"])]
    problems += [f"unexpected {name}" for name in sorted(info["unexpected_keys"])]
    problems += [f"{name} is {list(got)}, expected {list(want)}" for name, got, want in sorted(info["mismatched_keys"])]
    return module, problems


@contextmanager
def _without_bars() -> Iterator[None]:
    """Transformers shows a bar for every tensor that it reads from a file on this disk; not here."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _refuse(place: Path, problems: list[str]) -> None:
    if problems:
        shown = "; ".join(problems[:5]) + ("; …" if len(problems) > 5 else "")
        raise BrokenFileError(
            f"{place}: the weights do not fit the configuration in {len(problems)} tensors ({shown}); "
            "fetch or save the two together"
        )
