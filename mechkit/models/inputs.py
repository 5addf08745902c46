"""Prompts as the caller has them, to one right-padded block.

Padding is on the right, where a causal model's real tokens cannot see it; the small bidirectional decoder masks it.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from ..errors import InputError

Tokens = Tensor | Sequence


def pad(tokens: Tokens, d_vocab: int, n_context: int) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch"]]:
    """Right-padded tokens and each prompt's length; a single prompt is a batch of one.

    Errors: InputError where a prompt is empty or too long, or a token id lies outside the vocabulary.
    """
    if isinstance(tokens, Tensor):
        if tokens.is_floating_point() or tokens.dim() not in (1, 2):
            raise InputError(f"tokens: expected token ids [batch, pos], got {tokens.dtype} of {tuple(tokens.shape)}")
        block = torch.atleast_2d(tokens).long()
        lengths = torch.full((len(block),), block.shape[1], device=block.device)
    else:
        first = tokens[0] if len(tokens) else tokens
        if isinstance(tokens, str) or isinstance(first, str) or (isinstance(first, list) and str in map(type, first)):
            raise InputError("tokens: got text; turn it into tokens with model.to_tokens(text) first")
        rows = [list(tokens)] if isinstance(first, int) else [list(row) for row in tokens]
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
        block = torch.zeros(len(rows), max(map(len, rows), default=0), dtype=torch.long)
        for row, ids in enumerate(rows):
            block[row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
    if block.numel() == 0 or not bool((lengths > 0).all()):
        raise InputError("tokens: an empty batch or an empty prompt; every prompt needs at least one token")
    if block.shape[1] > n_context:
        raise InputError(f"tokens: a prompt of {block.shape[1]} tokens, but the model's context is {n_context}")
    low, high = int(block.min()), int(block.max())
    if low < 0 or high >= d_vocab:
        raise InputError(f"tokens: id {low if low < 0 else high} is outside the vocabulary of {d_vocab}")
    return block, lengths


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Row numbers in batches of similar length, each at most `batch_tokens` padded tokens (or one prompt)."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if batches and lengths[row] * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
