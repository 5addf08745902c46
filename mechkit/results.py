"""What verbs return: labelled arrays with their provenance, that select, tabulate, plot, save and load.

`clean` shows the behaviour, `corrupted` does not. `raw` is the metric itself, per cell and example. The effect of
example i is (raw_i - corrupted_i) / mean(clean - corrupted): 0 = like corrupted, 1 = like clean. It is a ratio of
means, so its interval resamples numerator and denominator together, whole clusters at a time. An example that a cell
was not measured on (NaN) is left out of that cell's numerator and denominator. Where the interval of the denominator
includes 0 every effect is NaN, and `attrs["effect_undefined"]` says why.

Dimensions are named in the singular (`layer`, `head`, `position`, `example`, …). A `position` dimension has integers or
roles as its coordinate, and may carry the text of its tokens, repeats and all, as a second coordinate `token`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr
from jaxtyping import Num

from . import _pictures
from ._labelled import Result, cluster_labels, interval_dataset, labelled_dataset, require_variable
from ._summary import summary_html
from .errors import ResultError
from .stats import Interval, mean_interval, ratio_interval

__all__ = ["BaselineResult", "EffectResult", "Result"]

QUANTITIES = ("effect", "difference", "raw")

Result.__module__ = __name__  # files name the class by its public home


@dataclass(frozen=True, eq=False, repr=False)
class BaselineResult(Result):
    """A task's metric on clean and on corrupted prompts: variables `clean` and `corrupted`, one value per example.

    An optional coordinate `cluster` on `example` names the examples that are not independent.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("clean", "corrupted"):
            require_variable(self, name, dims=("example",))
            if not np.isfinite(self.data[name].values).all():
                raise ResultError(
                    f"{type(self).__name__}: {name!r} must be finite for every example; leave out the rest"
                )

    @classmethod
    def from_arrays(
        cls,
        clean: Num[np.ndarray, " _examples"],
        corrupted: Num[np.ndarray, " _examples"],
        *,
        clusters: Sequence[object] | np.ndarray | None = None,
        attrs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Build from one value per example; `clusters` labels examples that are resampled together."""
        return cls(
            labelled_dataset(
                {"clean": (["example"], clean), "corrupted": (["example"], corrupted)}, {}, clusters, attrs
            )
        )

    @property
    def clean(self) -> xr.DataArray:
        """The metric on clean prompts, by example."""
        return self.data["clean"]

    @property
    def corrupted(self) -> xr.DataArray:
        """The metric on corrupted prompts, by example."""
        return self.data["corrupted"]

    @property
    def gap(self) -> xr.DataArray:
        """Clean minus corrupted, by example."""
        return self.clean - self.corrupted

    def interval(self, confidence: float = 0.95) -> xr.Dataset:
        """Means with their BCa intervals: `estimate`, `low` and `high` along `run` = clean, corrupted, gap."""
        runs = {"clean": self.clean, "corrupted": self.corrupted, "gap": self.gap}
        values = np.stack([run.values for run in runs.values()])
        interval = mean_interval(values, clusters=cluster_labels(self.data), confidence=confidence)
        return interval_dataset(interval, xr.Dataset(coords={"run": list(runs)})["run"])

    def lines(self) -> list[str]:
        """One line each for clean, corrupted and gap: mean and interval."""
        ends = self.interval()
        return [f"{run.item()} {_range(ends.sel(run=run))}" for run in ends["run"]]

    def plot(self, value: str | None = None, *, title: str | None = None) -> go.Figure:
        """Bars with intervals for clean, corrupted and their gap; `value` shows one of the three alone."""
        ends = self.interval()
        if value is not None:
            if value not in ends["run"].values:
                raise ResultError(f"BaselineResult.plot: expected clean, corrupted or gap, got {value!r}")
            ends = ends.sel(run=[value])
        unit = str(self.attrs.get("metric", "metric"))
        heading = title or f"{self.title}\nn = {self.data.sizes['example']}"
        return _pictures.draw(ends["estimate"], ends["low"], ends["high"], title=heading, unit=unit)

    def __str__(self) -> str:
        return f"{self.attrs.get('metric', 'metric')}: {', '.join(self.lines())}, n = {self.data.sizes['example']}"

    def _repr_html_(self) -> str:
        return summary_html(self.title, self.data, self.lines(), None)


@dataclass(frozen=True, eq=False, repr=False)
class EffectResult(Result):
    """What interventions did to a metric: `raw` over cells and examples, beside the `clean` and `corrupted` runs.

    The dimensions of `raw` other than `example` are the cells. `attrs["direction"]` is "denoising" (clean put into
    corrupted: an untouched cell reads 0) or "noising" (the reverse: it reads 1).
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        require_variable(self, "raw", dims=None)
        self.data["raw"] = self.data["raw"].transpose(..., "example")
        self.data.attrs.pop("effect_undefined", None)
        gap = mean_interval(self.baseline.gap.values, clusters=cluster_labels(self.data))
        if gap.includes(0.0):
            few = " (fewer than two independent examples)" if np.isnan(gap.low) else ""
            self.data.attrs["effect_undefined"] = (
                f"the mean of clean - corrupted is {gap}: its 95% interval does not exclude 0{few}, "
                "so there is nothing to divide by; see .raw"
            )

    @classmethod
    def from_arrays(
        cls,
        raw: Num[np.ndarray, "*_cells _examples"],
        clean: Num[np.ndarray, " _examples"],
        corrupted: Num[np.ndarray, " _examples"],
        *,
        dims: Sequence[str],
        coords: Mapping[str, Any],
        clusters: Sequence[object] | np.ndarray | None = None,
        attrs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Build from arrays whose last axis is the example; `dims` names the other axes of `raw` in order.

        `coords` gives labels for each dimension, or (dimension, labels) for a further coordinate such as `token`.
        """
        variables = {
            "raw": ([*dims, "example"], raw),
            "clean": (["example"], clean),
            "corrupted": (["example"], corrupted),
        }
        return cls(labelled_dataset(variables, coords, clusters, attrs))

    @property
    def raw(self) -> xr.DataArray:
        """The metric after the intervention, cells × example; NaN where not measured."""
        return self.data["raw"]

    @property
    def clean(self) -> xr.DataArray:
        """The metric of the clean run, by example."""
        return self.data["clean"]

    @property
    def corrupted(self) -> xr.DataArray:
        """The metric of the corrupted run, by example."""
        return self.data["corrupted"]

    @property
    def baseline(self) -> BaselineResult:
        """The two runs without intervention."""
        runs = self.data[["clean", "corrupted"]]
        about_cells = ("title", "method", "direction", "effect_undefined")
        runs.attrs = {name: value for name, value in runs.attrs.items() if name not in about_cells}
        return BaselineResult(runs)

    @property
    def cell_dims(self) -> list[str]:
        """The dimensions of the cells: those of `raw` without `example`."""
        return [str(dim) for dim in self.raw.dims if dim != "example"]

    @property
    def effect(self) -> xr.DataArray:
        """Normalised effect, cells × example: 0 = like corrupted, 1 = like clean."""
        gap = (self.clean - self.corrupted).where(self.raw.notnull()).mean("example")
        effect = (self.raw - self.corrupted) / gap
        return (effect * np.nan if self.effect_undefined else effect).transpose(*self.raw.dims).rename("effect")

    @property
    def difference(self) -> xr.DataArray:
        """The metric's change from the run that was intervened on, cells × example, in the metric's own units."""
        return (self.raw - self._untouched).transpose(*self.raw.dims).rename("difference")

    @property
    def effect_undefined(self) -> str | None:
        """Why every effect is NaN, or None where effects are defined."""
        return self.data.attrs.get("effect_undefined")

    def mean_effect(self) -> xr.DataArray:
        """The effect of each cell, over examples; NaN where not measured."""
        return self.effect.mean("example")

    def interval(self, confidence: float = 0.95, *, value: str = "effect") -> xr.Dataset:
        """`estimate`, `low` and `high` over the cells, from one bootstrap of all of them.

        Intervals are per cell: they do not correct for picking out the largest cells.
        """
        if value not in QUANTITIES:
            raise ResultError(f"EffectResult: expected a value out of {QUANTITIES}, got {value!r}")
        template = self.raw.isel(example=0, drop=True)
        clusters = cluster_labels(self.data)
        if value == "effect" and self.effect_undefined:
            nothing = np.full(template.shape, np.nan)
            return interval_dataset(Interval(nothing, nothing, nothing), template)
        if value == "effect":
            gap = (self.clean - self.corrupted).values
            shift = (self.raw - self.corrupted).transpose(*self.raw.dims).values
            return interval_dataset(ratio_interval(shift, gap, clusters=clusters, confidence=confidence), template)
        values = self.raw if value == "raw" else self.difference
        return interval_dataset(mean_interval(values.values, clusters=clusters, confidence=confidence), template)

    def top(self, k: int = 10, *, value: str | None = None, confidence: float = 0.95) -> pd.DataFrame:
        """The k measured cells that moved the metric most, with intervals, largest first.

        Effects are ranked by their distance from an untouched cell: by |effect|, or when noising by |1 - effect|.
        Without `value` the table shows effects, or differences in the metric where effects are undefined; the column
        says which.
        """
        value = value or self._shown
        ends = self.interval(confidence, value=value).assign(mean_raw=self.raw.mean("example"))
        table = ends.expand_dims("cell").to_dataframe().reset_index().drop(columns="cell")
        untouched = {"effect": float(self._noising), "difference": 0.0, "raw": float(self._untouched.mean())}[value]
        distance = (table["estimate"] - untouched).abs()
        table = table.loc[distance.dropna().sort_values(ascending=False, kind="stable").index[:k]]
        labels = [name for name in table.columns if name not in ("estimate", "low", "high", "mean_raw")]
        labels.sort(key=lambda name: name != "site")
        table = table[[*labels, "estimate", "low", "high", *([] if value == "raw" else ["mean_raw"])]]
        return table.rename(columns={"estimate": value, "mean_raw": "raw"}).reset_index(drop=True)

    def to_pandas(self) -> pd.DataFrame:
        """One row for each cell and example: labels, `raw`, `clean`, `corrupted` and `effect`."""
        table = self.data.assign(effect=self.effect).to_dataframe().reset_index()
        values = ["raw", "clean", "corrupted", "effect"]
        return table[[*(name for name in table.columns if name not in values), *values]]

    def plot(self, value: str | None = None, *, title: str | None = None, confidence: float = 0.95) -> go.Figure:
        """Bars with intervals for one dimension of cells, a heatmap for two, small multiples for three.

        Without `value` the figure shows effects, or differences in the metric where effects are undefined; the colour
        bar says which and the line below the title says why. Raises `ResultError` for more than three dimensions.
        """
        value = value or self._shown
        ends = self.interval(confidence, value=value)
        metric = str(self.attrs.get("metric", "metric"))
        units = {"effect": "effect (0 = corrupted, 1 = clean)", "difference": f"change in {metric}", "raw": metric}
        notes = [metric, f"n = {self.raw.sizes['example']}", str(self.attrs.get("direction", ""))]
        notes += [f"{name} {label.item()}" for name, label in self.raw.coords.items() if label.dims == ()]
        lines = [title or self.title, ", ".join(note for note in notes if note)]
        if self.effect_undefined and value != "raw":
            lines.append(f"effects are undefined: {self.effect_undefined}")
        return _pictures.draw(
            ends["estimate"],
            ends["low"],
            ends["high"],
            title="\n".join(lines),
            unit=units[value],
            centre=self._centre(value),
        )

    def _repr_html_(self) -> str:
        return summary_html(self.title, self.data, self.baseline.lines(), self.top(5))

    def _centre(self, value: str) -> float | None:
        """Where colours turn: at what an untouched cell reads; raw values of one sign have no such place."""
        if value == "raw":
            return None if bool((self.raw.fillna(0) >= 0).all()) else 0.0
        return 1.0 if value == "effect" and self._noising else 0.0

    @property
    def _noising(self) -> bool:
        return self.attrs.get("direction") == "noising"

    @property
    def _untouched(self) -> xr.DataArray:
        """The run that was intervened on."""
        return self.clean if self._noising else self.corrupted

    @property
    def _shown(self) -> str:
        return "difference" if self.effect_undefined else "effect"


def _range(ends: xr.Dataset) -> str:
    """One estimate with its interval, in few digits."""
    estimate, low, high = (float(ends[name]) for name in ("estimate", "low", "high"))
    return str(Interval(estimate, low, high))
