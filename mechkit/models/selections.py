"""Which positions, heads, features and rows: what a caller may write, checked, and the numbers that it stands for."""

from collections.abc import Sequence
from numbers import Integral

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..errors import EditError, InputError

Selection = int | tuple[int, ...] | tuple[tuple[int, ...], ...] | None


def parse_selection(name: str, given: object, nested: bool = False) -> Selection:
    """A number, or a tuple of numbers (or of such tuples); masks become the numbers where they are True."""
    if given is None or (isinstance(given, Integral) and not isinstance(given, bool)):
        return None if given is None else int(given)
    if isinstance(given, slice):
        if given.stop is None or min(given.start or 0, given.stop) < 0:
            raise EditError(f"{name}={given}: give the slice's ends as numbers from 0 up")
        given = range(given.start or 0, given.stop, given.step or 1)
    numbers = given.tolist() if isinstance(given, Tensor | np.ndarray) else given
    if isinstance(numbers, Integral) and not isinstance(numbers, bool):
        return int(numbers)
    if not isinstance(numbers, Sequence) or isinstance(numbers, str) or not len(numbers):
        raise EditError(f"{name}: expected a number, numbers, a mask or None, got {given!r}")
    if all(isinstance(i, bool) for i in numbers):
        numbers = [i for i, chosen in enumerate(numbers) if chosen]
        if not numbers:
            raise EditError(f"{name}: the mask selects nothing")
    if nested and all(isinstance(row, Sequence) and not isinstance(row, str) for row in numbers):
        return tuple(tuple(int(i) for i in row) for row in numbers)
    if not all(isinstance(i, Integral) and not isinstance(i, bool) for i in numbers):
        raise EditError(f"{name}: expected a number, numbers, a mask or None, got {given!r}")
    return tuple(int(i) for i in numbers)


def listed(selection: Selection) -> tuple:
    """What is selected, as a tuple; nothing stands for everything and is empty."""
    return selection if isinstance(selection, tuple) else () if selection is None else (selection,)


def resolve_indices(name: str, chosen: Selection, size: int, edit: object) -> Tensor:
    """Indices from 0 up along one axis. Errors: EditError where one does not exist."""
    if chosen is None:
        return torch.arange(size)
    indices = torch.as_tensor(chosen, dtype=torch.long).reshape(-1)
    outside = indices[(indices < -size) | (indices >= size)]
    if len(outside):
        raise EditError(f"{edit}: {name} {outside[0].item()} does not exist; there are {size}")
    return indices % size


def resolve_positions(
    positions: object, lengths: Int[Tensor, "batch"], size: int, place: str = "positions"
) -> Int[Tensor, "batch n"]:
    """Positions as a table, one row per prompt, negative ones counted from the prompt's own end.

    Errors: InputError where a position lies outside its prompt, or the table has another number of rows.
    """
    lengths = lengths.cpu()
    if positions is None:
        return torch.arange(size).expand(len(lengths), size)
    try:
        table = torch.as_tensor(positions).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{place}: expected token positions, got {positions!r}") from error
    if table.dtype == torch.bool or table.is_floating_point() or table.is_complex() or not table.numel():
        raise InputError(f"{place}: expected token positions as whole numbers, got {positions!r}")
    table = table.long()
    if table.dim() < 2:
        table = table.reshape(1, -1).expand(len(lengths), -1)
    if len(table) != len(lengths):
        raise InputError(f"{place}: positions for {len(table)} prompts, but there are {len(lengths)}")
    resolved = torch.where(table < 0, table + lengths[:, None], table)
    outside = (resolved < 0) | (resolved >= lengths[:, None])
    if outside.any():
        row, column = outside.nonzero()[0].tolist()
        raise InputError(
            f"{place}: position {table[row, column].item()} is outside prompt {row}, which has {lengths[row]} tokens"
        )
    return resolved


def selection_text(selection: Selection) -> str:
    """The form that reads back."""
    if isinstance(selection, tuple):
        return f"[{', '.join(selection_text(part) for part in selection)}]"
    return str(selection)
