"""The base of every result: labelled arrays with provenance, and what all results share."""

import importlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from . import _pictures
from ._netcdf import read_dataset, write_dataset
from ._summary import summary_html
from .errors import ResultError
from .stats import Interval


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """A labelled dataset with provenance: `data` holds the arrays, `data.attrs` plain text, numbers, lists and maps."""

    data: xr.Dataset

    def __post_init__(self) -> None:
        data = self.data.copy()
        data.attrs = {str(name): plain_value(str(name), value) for name, value in data.attrs.items()}
        object.__setattr__(self, "data", data)

    @property
    def attrs(self) -> dict[str, Any]:
        """Provenance: metric, model, task, seed, versions and whatever else the maker of the result noted."""
        return {str(name): value for name, value in self.data.attrs.items()}

    @property
    def title(self) -> str:
        """One line that says what this is: the attribute `title`, else method, task and model."""
        parts = [str(self.attrs[name]) for name in ("method", "task", "model") if self.attrs.get(name)]
        return str(self.attrs.get("title") or " · ".join(parts) or type(self).__name__)

    def sel(self, **labels: Any) -> Self:
        """The part with these labels (a value, list or slice for each dimension), as the same kind of result.

        The `example` dimension stays even where one example is chosen. Raises `ResultError` for an unknown dimension or
        label.
        """
        if "example" in labels and np.ndim(labels["example"]) == 0 and not isinstance(labels["example"], slice):
            labels["example"] = [labels["example"]]
        try:
            return type(self)(self.data.sel(labels))
        except (KeyError, ValueError, TypeError, IndexError) as error:
            known = {str(dim): _some(self.data[dim].values) for dim in self.data.dims}
            raise ResultError(f"{type(self).__name__}.sel({labels}): expected labels among {known}: {error}") from error

    def to_pandas(self) -> pd.DataFrame:
        """Every variable as a column, one row for each combination of labels."""
        return self.data.to_dataframe().reset_index()

    def save(self, path: str | Path) -> Path:
        """Write one netCDF file, whole or not at all; `path` must end in .nc. `load` gives the same result back."""
        path = Path(path)
        if path.suffix != ".nc":
            raise ResultError(f"save: expected a path that ends in .nc, got {path.name!r}")
        return write_dataset(self.data, path, f"{type(self).__module__}:{type(self).__qualname__}")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote, as the class that it was. Raises `ResultError` for a damaged or foreign file."""
        data, kind = read_dataset(Path(path))
        maker = _class_named(kind, Path(path))
        if not issubclass(maker, cls):
            raise ResultError(f"{path}: expected a {cls.__name__}, got a {maker.__name__}; use {maker.__name__}.load")
        return maker(data)

    def plot(self, value: str | None = None, *, title: str | None = None) -> go.Figure:
        """A figure of one variable (not needed where there is only one), averaged over examples."""
        names = [str(name) for name in self.data.data_vars]
        if value is None and len(names) == 1:
            value = names[0]
        if value not in names:
            raise ResultError(f"{type(self).__name__}.plot: expected a variable out of {names}, got {value!r}")
        array = self.data[value]
        shown = array.mean("example") if "example" in array.dims else array
        return _pictures.draw(shown, title=title or self.title, unit=value)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{dim}: {size}" for dim, size in self.data.sizes.items())
        return f"{type(self).__name__}({self.title!r}; {sizes or 'one value'})"

    def _repr_html_(self) -> str:
        return summary_html(self.title, self.data, [], None)


def plain_value(name: str, value: object) -> Any:
    """`value` as plain text, number, truth value, None, list or map, which files keep exactly."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain_value(f"{name}.{key}", entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain_value(name, entry) for entry in value]
    raise ResultError(
        f"attribute {name!r}: expected text, numbers, lists or maps of them, got {type(value).__name__}; store str(...)"
    )


def require_variable(result: Result, name: str, *, dims: tuple[str, ...] | None) -> None:
    """Check that `result` has a numeric variable of these dimensions (None: any that include `example`)."""
    maker = type(result).__name__
    if name not in result.data.data_vars:
        raise ResultError(f"{maker}: expected a variable {name!r}, got {[str(key) for key in result.data.data_vars]}")
    array = result.data[name]
    if ("example" not in array.dims) if dims is None else (array.dims != dims):
        wanted = "dimensions that include 'example'" if dims is None else f"dimensions {dims}"
        raise ResultError(f"{maker}: expected {name!r} with {wanted}, got {array.dims}")
    if array.sizes["example"] == 0:
        raise ResultError(f"{maker}: expected at least one example in {name!r}, got none")
    if array.dtype.kind not in "fiu":
        raise ResultError(f"{maker}: expected numbers in {name!r}, got {array.dtype}")


def labelled_dataset(
    variables: Mapping[str, tuple[Sequence[str], np.ndarray]],
    coords: Mapping[str, Any],
    clusters: Sequence[object] | np.ndarray | None,
    attrs: Mapping[str, Any] | None,
) -> xr.Dataset:
    """A dataset from arrays; a coordinate is labels for its own dimension, or (dimension, labels)."""
    dims = {dim for names, _ in variables.values() for dim in names}
    labels: dict[str, Any] = {}
    for name, value in coords.items():
        paired = isinstance(value, tuple) and len(value) == 2 and value[0] in dims and not isinstance(value[1], str)
        dim, entries = value if paired else (name, value)
        labels[name] = (dim, _label_array(entries)) if dim in dims else _label_array(entries)[()]
    if clusters is not None:
        labels["cluster"] = ("example", _label_array(clusters))
    try:
        return xr.Dataset({name: (list(names), array) for name, (names, array) in variables.items()}, labels, attrs)
    except ValueError as error:
        shapes = {name: dict(zip(names, np.shape(array), strict=False)) for name, (names, array) in variables.items()}
        raise ResultError(f"arrays and labels do not line up: {error}; the arrays have {shapes}") from error


def interval_dataset(interval: Interval, template: xr.DataArray) -> xr.Dataset:
    """An interval with the dimensions and labels of `template`: variables `estimate`, `low` and `high`."""
    parts = {name: np.asarray(getattr(interval, name)) for name in ("estimate", "low", "high")}
    return xr.Dataset({name: template.copy(data=values).rename(name) for name, values in parts.items()})


def cluster_labels(data: xr.Dataset) -> np.ndarray | None:
    """The coordinate `cluster` of the examples, where there is one."""
    return data.coords["cluster"].values if "cluster" in data.coords else None


def _label_array(entries: Any) -> np.ndarray:
    """Labels as an array; text as Python strings, since numpy's own text type drops trailing NULs."""
    array = np.asarray(entries)
    return np.array(entries, dtype=object) if array.dtype.kind == "U" else array


def _some(values: np.ndarray) -> str:
    shown = ", ".join(repr(value) for value in values[:8].tolist())
    return f"{shown}, … ({len(values)})" if len(values) > 8 else shown


def _class_named(kind: str, path: Path) -> type[Result]:
    """The result class that a file names; only modules of mechkit are imported for it."""
    module_name, _, name = kind.partition(":")
    if module_name not in sys.modules and re.fullmatch(r"mechkit(\.\w+)+", module_name):
        try:
            importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise ResultError(f"{path}: this version of mechkit has no module {module_name}") from error
    maker = getattr(sys.modules.get(module_name), name, None)
    if not (isinstance(maker, type) and issubclass(maker, Result)):
        raise ResultError(f"{path}: the file holds a {kind!r}, which is no known result; import its module first")
    return maker
