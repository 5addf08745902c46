"""Prompts as the caller has them, to one right-padded block.

Padding is on the right, where a causal model's real tokens cannot see it; the small bidirectional decoder masks it.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..errors import InputError

Tokens = Tensor | np.ndarray | Sequence


def pad(tokens: object, d_vocab: int, n_context: int) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch"]]:
    """Right-padded tokens and each prompt's length; a single prompt is a batch of one.

    Errors: InputError where a prompt is empty or too long, or a token id lies outside the vocabulary.
    """
    if isinstance(tokens, np.ndarray):
        tokens = torch.from_numpy(tokens)
    if isinstance(tokens, Tensor):
        if not _whole(tokens) or tokens.dim() not in (1, 2):
            raise InputError(f"tokens: expected token ids [batch, pos], got {tokens.dtype} of {tuple(tokens.shape)}")
        block = torch.atleast_2d(tokens).long()
        lengths = torch.full((len(block),), block.shape[1], device=block.device)
    else:
        rows = _rows(tokens)
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
        block = torch.zeros(len(rows), int(lengths.max()) if rows else 0, dtype=torch.long)
        for row, ids in enumerate(rows):
            block[row, : len(ids)] = ids
    if block.numel() == 0 or not bool((lengths > 0).all()):
        raise InputError("tokens: an empty batch or an empty prompt; every prompt needs at least one token")
    if block.shape[1] > n_context:
        raise InputError(f"tokens: a prompt of {block.shape[1]} tokens, but the model's context is {n_context}")
    low, high = int(block.min()), int(block.max())
    if low < 0 or high >= d_vocab:
        raise InputError(f"tokens: id {low if low < 0 else high} is outside the vocabulary of {d_vocab}")
    return block, lengths


def _rows(tokens: object) -> list[Tensor]:
    """Each prompt's ids. Errors: InputError where they are text, or no whole numbers."""
    if isinstance(tokens, str) or not isinstance(tokens, Sequence):
        hint = "turn text into tokens with model.to_tokens(text) first" if isinstance(tokens, str) else "pass its ids"
        raise InputError(f"tokens: expected ids [batch, pos] or a list of prompts, got {type(tokens).__name__}; {hint}")
    single = len(tokens) and not isinstance(tokens[0], Sequence | Tensor | np.ndarray)
    rows = []
    for number, row in enumerate([tokens] if single else tokens):
        if isinstance(row, str) or (isinstance(row, Sequence) and any(isinstance(token, str) for token in row)):
            raise InputError("tokens: got text; turn it into tokens with model.to_tokens(text) first")
        ids = torch.as_tensor(row)
        if ids.numel() and not _whole(ids):
            raise InputError(f"tokens, prompt {number}: expected whole numbers, got {ids.dtype}")
        rows.append(ids.long())
    return rows


def _whole(ids: Tensor) -> bool:
    return not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Row numbers in batches of similar length, each at most `batch_tokens` padded tokens (or one prompt)."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if batches and lengths[row] * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
