"""Edit: an intervention as data — where, which part, which operation, which value.

    Edit("z.5.3", 0.0, positions=-1)                      # zero head L5H3 at the last position
    Edit("resid_post.8", direction, operation="add")      # steer everywhere
    Edit("attn_out.2", other_run["attn_out.2"], rows=[0, 2])

A selection works as in numpy: a single number drops its axis, a list keeps it, nothing means all. `features` are the
last axis: model dimensions, neurons, vocabulary, or key positions in attention scores and patterns. Negative
positions count from the end of each prompt. The printed form reads back with `Edit.parse`; a tensor is printed as its
shape and a fingerprint, and is handed to `parse` again.
"""

import ast
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from .._files import replacing
from ..errors import EditError
from .selections import Selection, listed, parse_selection, resolve_indices, resolve_positions, selection_text
from .sites import Site

OPERATIONS = ("set", "add", "scale", "project_out", "apply")
Value = int | float | Tensor | Callable[[Tensor], Tensor]

SELECTIONS = ("positions", "heads", "features", "rows")
_AXIS_OF = {"positions": "position", "heads": "head", "features": "feature", "rows": "batch"}


@dataclass(frozen=True, eq=False, repr=False)
class Edit:
    """One intervention at one site.

    `operation`: *set* to the value, *add* it, *scale* by it, *project_out* the span of its rows (a direction
    [features] or several [k, features]), or *apply* a function to the selected activations. A tensor value
    broadcasts to the selected shape. `positions` may be a [batch, k] table, one row per prompt.

    Errors: EditError where a part is malformed; SiteError where the site is.
    """

    site: Site
    value: Value
    operation: str = "set"
    positions: Selection = None
    heads: Selection = None
    features: Selection = None
    rows: Selection = None

    def __init__(
        self,
        site: str | Site,
        value: Any,
        operation: str = "set",
        *,
        positions: Any = None,
        heads: Any = None,
        features: Any = None,
        rows: Any = None,
    ) -> None:
        put = object.__setattr__
        put(self, "site", Site.parse(site))
        put(self, "value", _value(value))
        put(self, "operation", operation)
        put(self, "positions", parse_selection("positions", positions, nested=True))
        for name, given in (("heads", heads), ("features", features), ("rows", rows)):
            put(self, name, parse_selection(name, given))
        self._check()

    def _check(self) -> None:
        place = f"edit at {self.site}"
        if self.operation not in OPERATIONS:
            raise EditError(f"{place}: unknown operation {self.operation!r}; expected one of {', '.join(OPERATIONS)}")
        if self.heads is not None and "head" not in self.site.axes:
            why = "names its head already" if self.site.head is not None else "has no heads"
            raise EditError(f"{place}: heads={self.heads} given, but the site {why}")
        if callable(self.value) != (self.operation == "apply"):
            raise EditError(f"{place}: a function goes with operation='apply', and only with it")
        if not (callable(self.value) or isinstance(self.value, int | float | Tensor)):
            raise EditError(
                f"{place}: the value must be a number, a tensor or a function, got {type(self.value).__name__}"
            )
        if not callable(self.value) and not torch.isfinite(torch.as_tensor(self.value)).all():
            raise EditError(f"{place}: the value holds NaN or infinity; edits must be finite")
        if self.site.name in ("attn_scores", "pattern") and min(listed(self.features), default=0) < 0:
            raise EditError(f"{place}: key positions count from 0, got features={self.features}")
        if self.operation == "project_out" and not (isinstance(self.value, Tensor) and self.value.dim() in (1, 2)):
            raise EditError(f"{place}: project_out needs a direction [features] or a basis [k, features]")

    # -- applying --------------------------------------------------------------------------------------------------

    def apply(self, activation: Tensor, lengths: Int[Tensor, "batch"]) -> Tensor:
        """The edited activation, as a new tensor; the one given is left alone.

        `activation` has the axes of `site.whole`; `lengths` are the prompts' lengths, to place negative positions.
        Errors: EditError naming both shapes where the value does not fit, or an index outside the activation.
        """
        index = self._index(activation, lengths)
        if index is None:
            return self._changed(activation)
        edited = activation.clone()
        edited[index] = self._changed(activation[index])
        return edited

    def _changed(self, selected: Tensor) -> Tensor:
        value = self.value
        if callable(value):
            changed = value(selected.clone())  # it may work in place
            if not isinstance(changed, Tensor) or changed.shape != selected.shape:
                got = tuple(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
                raise EditError(f"{self}: the function must return shape {tuple(selected.shape)}, got {got}")
            return changed
        value = torch.as_tensor(value).to(device=selected.device, dtype=selected.dtype)
        if self.operation == "project_out":
            return self._projected(selected, torch.atleast_2d(value))
        try:
            value = value.expand(selected.shape)
        except RuntimeError as error:
            raise EditError(
                f"{self}: the value's shape {tuple(value.shape)} does not broadcast to the selected activation's "
                f"{tuple(selected.shape)} ({', '.join(self._selected_axes())})"
            ) from error
        return {"set": lambda: value, "add": lambda: selected + value, "scale": lambda: selected * value}[
            self.operation
        ]()

    def _projected(self, selected: Tensor, basis: Tensor) -> Tensor:
        if basis.shape[-1] != selected.shape[-1]:
            raise EditError(f"{self}: directions of {basis.shape[-1]} features, but the site has {selected.shape[-1]}")
        span, singular, _ = torch.linalg.svd(basis.mT, full_matrices=False)
        span = span[:, singular > singular.max() * 1e-6]
        return selected - (selected @ span) @ span.mT

    def _selected_axes(self) -> list[str]:
        dropped = {_AXIS_OF[name] for name in SELECTIONS if isinstance(getattr(self, name), int)}
        return [axis for axis in self.site.axes if axis not in dropped]

    def _index(self, activation: Tensor, lengths: Tensor) -> tuple[Tensor | int, ...] | None:
        """An index of the selected part, or None where that is everything."""
        axes = self.site.whole.axes
        chosen = {axis: getattr(self, name) for name, axis in _AXIS_OF.items()}
        if self.site.head is not None:
            chosen["head"] = self.site.head
        if all(chosen[axis] is None for axis in axes):
            return None
        sizes = dict(zip(axes, activation.shape, strict=True))
        rows = resolve_indices("rows", chosen["batch"], sizes["batch"], self)
        indices = {"batch": rows}
        for axis in axes[1:]:
            if axis != "position":
                indices[axis] = resolve_indices(axis, chosen[axis], sizes[axis], self)
        indices["position"] = resolve_positions(chosen["position"], lengths[rows], sizes["position"], str(self))
        kept = [axis for axis in axes if not isinstance(chosen[axis], int)]
        grid = {}
        for axis in axes:
            where = indices[axis].to(activation.device)
            view = [1] * len(kept)
            if axis == "position":  # a table: one row of positions for each batch row
                where = where if "position" in kept else where[:, 0]
                if "batch" in kept:
                    view[kept.index("batch")] = where.shape[0]
                elif where.shape[0] > 1:
                    raise EditError(f"{self}: positions are given for {where.shape[0]} rows, but one row is selected")
                if "position" in kept:
                    view[kept.index("position")] = where.shape[1]
            elif axis in kept:
                view[kept.index(axis)] = len(where)
            grid[axis] = where.reshape(view)
        return tuple(grid[axis] for axis in axes)

    # -- text and files --------------------------------------------------------------------------------------------

    def __str__(self) -> str:
        parts = [str(self.site), describe_value(self.value)]
        parts += [
            f"{name}={selection_text(getattr(self, name))}" for name in SELECTIONS if getattr(self, name) is not None
        ]
        return f"{self.operation}({', '.join(parts)})"

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Edit) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    @classmethod
    def parse(cls, text: str, value: Value | None = None) -> "Edit":
        """Read the printed form. `value` is needed where the text holds a tensor or a function.

        Errors: EditError where the text does not parse, or `value` is not the one that was printed.
        """
        operation, opened, rest = text.strip().partition("(")
        site, _, rest = rest.partition(", ")
        if not opened or not rest.endswith(")"):
            raise EditError(f"edit {text!r} does not parse: expected 'operation(site, value, positions=[…])'")
        if rest.startswith("<"):
            printed, _, rest = rest.partition(">")
            printed, rest = printed + ">", rest.removeprefix(", ")
            if value is None or describe_value(value) != printed:
                raise EditError(f"edit {text!r}: hand the value {printed} to parse; got {describe_value(value)}")
            number: Value = value
        else:
            first, _, rest = rest.removesuffix(")").partition(", ")
            number, rest = _literal(first, text), rest + ")"
        selections = _keywords(rest.removesuffix(")"), text)
        return cls(site, number, operation, **selections)


def _value(given: object) -> object:
    """Arrays as tensors and numpy's numbers as Python's; everything else as it is."""
    if isinstance(given, np.ndarray):
        return torch.from_numpy(given)
    return given.item() if isinstance(given, np.generic) else given


def describe_value(value: Value | None) -> str:
    """A number as it is; a tensor by dtype, shape and fingerprint; a function by name."""
    if isinstance(value, Tensor):
        flat = value.detach().to("cpu", torch.float64).contiguous()
        fingerprint = hashlib.sha256(flat.numpy().tobytes()).hexdigest()[:12]
        return f"<{str(value.dtype).removeprefix('torch.')} {list(value.shape)} {fingerprint}>"
    if callable(value):
        name = getattr(value, "__name__", type(value).__name__).strip("<>")
        return f"<function {name}>"
    return repr(value)


def save_edits(path: str | Path, edits: Iterable[Edit]) -> None:
    """Write edits to one safetensors file, whole or not at all. Errors: EditError where one holds a function."""
    from safetensors.torch import save_file

    edits, path = list(edits), Path(path)
    functions = [str(edit) for edit in edits if callable(edit.value)]
    if functions:
        raise EditError(f"{path}: functions cannot be saved as data: {', '.join(functions)}")
    values = {str(i): edit.value for i, edit in enumerate(edits) if isinstance(edit.value, Tensor)}
    tensors = {name: value.detach().clone().contiguous() for name, value in values.items()}  # none may share memory
    with replacing(path) as part:
        save_file(tensors, part, metadata={"edits": json.dumps([str(edit) for edit in edits])})


def load_edits(path: str | Path) -> list[Edit]:
    """Read what `save_edits` wrote. Errors: EditError where the file is something else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            texts = json.loads((file.metadata() or {})["edits"])
            values: Mapping[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise EditError(f"{path}: not a file of edits ({error}); write one with save_edits") from error
    return [Edit.parse(text, values.get(str(i))) for i, text in enumerate(texts)]


def _literal(text: str, whole: str) -> int | float:
    try:
        number = ast.literal_eval(text)
    except (ValueError, SyntaxError) as error:
        raise EditError(f"edit {whole!r} does not parse: {text!r} is not a number") from error
    if not isinstance(number, int | float):
        raise EditError(f"edit {whole!r} does not parse: {text!r} is not a number")
    return number


def _keywords(text: str, whole: str) -> dict[str, int | list]:
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        assert isinstance(call, ast.Call)
        found = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (ValueError, SyntaxError) as error:
        raise EditError(f"edit {whole!r} does not parse: {text!r}") from error
    unknown = set(found) - set(SELECTIONS)
    if unknown or call.args:
        raise EditError(f"edit {whole!r} does not parse: expected selections among {', '.join(SELECTIONS)}")
    return found
