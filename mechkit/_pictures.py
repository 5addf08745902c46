"""Labelled arrays as figures: which dimension goes where, how its labels read, what the cells say on hover."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from . import figures
from .errors import ResultError

PREFIX = {"layer": "L", "head": "H"}
# rows first: layers run upwards, positions run to the right
ORDER = {"layer": 0, "head": 2, "position": 3}
FACETS = ("site", "head")


def tick_texts(array: xr.DataArray, dim: str) -> list[str]:
    """Short labels along `dim`: L5 for a layer, H3 for a head, the token's text for a position that has one."""
    if dim == "position" and _token(array) is not None:
        return [str(token) for token in np.atleast_1d(array.coords["token"].values)]
    return [short(dim, value) for value in _values(array, dim)]


def short(dim: str, value: object) -> str:
    """One coordinate as a short label: layer 5 is L5, head 3 is H3, anything else is its text."""
    return f"{PREFIX.get(dim, '')}{value}" if isinstance(value, (int, np.integer)) else str(value)


def full_texts(array: xr.DataArray, dim: str) -> list[str]:
    """Labels that leave nothing out, for hovering: dimension, value, and for a position its token in quotes."""
    texts = [f"{dim} {value}" for value in _values(array, dim)]
    if dim == "position" and _token(array) is not None:
        tokens = np.atleast_1d(array.coords["token"].values)
        return [f"{text} {str(token)!r}" for text, token in zip(texts, tokens, strict=True)]
    return texts


def draw(
    estimate: xr.DataArray,
    low: xr.DataArray | None = None,
    high: xr.DataArray | None = None,
    *,
    title: str,
    unit: str,
    centre: float | None = 0.0,
) -> go.Figure:
    """Bars with intervals for one dimension, a heatmap for two, small multiples for three; length-one dims fold away.

    Raises `ResultError` for more than three dimensions.
    """
    single = [str(dim) for dim in estimate.dims if estimate.sizes[dim] == 1]
    fixed = ", ".join(f"{dim} {tick_texts(estimate, dim)[0]}" for dim in single)
    if fixed:
        title = f"{title}\n{fixed}"
    dims = sorted((str(dim) for dim in estimate.dims if dim not in single), key=lambda dim: ORDER.get(dim, 1))
    if len(dims) > 3:
        raise ResultError(f"plot: expected at most three dimensions, got {dims}; choose along one with .sel(...)")
    facet = next((dim for dim in FACETS if dim in dims), dims[0]) if len(dims) == 3 else None
    if facet is not None:
        dims = [facet, *(dim for dim in dims if dim != facet)]
    estimate = estimate.squeeze(single).transpose(*dims)
    low, high = (None if end is None else end.squeeze(single).transpose(*dims) for end in (low, high))
    hover = _hover(estimate, low, high, dims, unit)
    ticks = [tick_texts(estimate, dim) for dim in dims]
    values = np.asarray(estimate.values, dtype=np.float64)
    if len(dims) < 2:
        ends = [None if end is None else np.atleast_1d(end.values) for end in (low, high)]
        names = ticks[0] if dims else [fixed or "all"]
        axis = dims[0] if dims else ""
        return figures.bars(
            names, np.atleast_1d(values), *ends, title=title, label_title=axis, value_title=unit, hover=hover
        )
    shape = {"title": title, "row_title": dims[-2], "column_title": dims[-1], "colour_title": unit}
    texts = np.array(hover, dtype=object).reshape(values.shape)
    if facet is not None:
        return figures.heatmaps(values, *ticks, **shape, hover=texts, centre=centre)
    return figures.heatmap(values, *ticks, **shape, hover=texts, centre=centre)


def _hover(
    estimate: xr.DataArray, low: xr.DataArray | None, high: xr.DataArray | None, dims: Sequence[str], unit: str
) -> list[str]:
    labels = [full_texts(estimate, dim) for dim in dims]
    name = unit.split(" (")[0].split("\n")[0] or "value"
    texts = []
    for place, value in np.ndenumerate(estimate.values):
        lines = [labels[axis][index] for axis, index in enumerate(place)]
        lines.append("not measured" if np.isnan(value) else f"{name}: {value:.6g}")
        if low is not None and high is not None and not np.isnan(low.values[place]):
            lines.append(f"interval: {low.values[place]:.4g} to {high.values[place]:.4g}")
        texts.append("\n".join(lines))
    return texts


def _values(array: xr.DataArray, dim: str) -> list[object]:
    return (
        list(np.atleast_1d(array.coords[dim].values).tolist()) if dim in array.coords else list(range(array.sizes[dim]))
    )


def _token(array: xr.DataArray) -> xr.DataArray | None:
    token = array.coords.get("token")
    return token if token is not None and token.dims in (("position",), ()) else None
