"""Results: hand-worked effects, undefined effects, selection, tables, exact files, figures and summaries."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from mechkit import results
from mechkit.errors import ResultError
from mechkit.results import BaselineResult, EffectResult, Result
from mechkit.stats import ratio_interval

TOKENS = ["<|bos|>", " the", " café", " the", "<b>", '\0\n"\\']
CLEAN = np.array([4.0, 6.0, 5.0, 9.0])
CORRUPTED = np.array([0.0, 1.0, -1.0, 2.0])  # gaps 4, 5, 6, 7: mean 5.5
ATTRS: dict[str, Any] = {
    "method": "patching",
    "task": "ioi",
    "model": "tiny <b>",
    "metric": "logit_difference",
    "seed": 2**40,
    "versions": {"torch": "2.13.0", "nested": [1, 2.5, None, True, "é"]},
    "not a number": float("nan"),
}


def sweep(seed: int = 0, layers: int = 3, **attrs: Any) -> EffectResult:
    """Layers × six positions, position 0 not measured; layer 2 at position 4 restores the clean run exactly."""
    raw = CORRUPTED + 0.3 * np.random.default_rng(seed).normal(size=(layers, len(TOKENS), 4))
    raw[:, 0] = np.nan
    raw[layers - 1, 4] = CLEAN
    return EffectResult.from_arrays(
        raw,
        CLEAN,
        CORRUPTED,
        dims=["layer", "position"],
        coords={"layer": range(layers), "position": range(6), "token": ("position", TOKENS), "site": "resid_pre"},
        clusters=["a", "a", "b", "c"],
        attrs=ATTRS | attrs,
    )


def test_effects_by_hand() -> None:
    raw = np.array([CORRUPTED, CLEAN, CORRUPTED + 2.75, [0.0, 1.0, np.nan, np.nan]])
    result = EffectResult.from_arrays(raw, CLEAN, CORRUPTED, dims=["head"], coords={"head": range(4)})
    assert result.mean_effect().values == pytest.approx([0, 1, 0.5, 0])
    assert result.effect.sel(head=1).values == pytest.approx(np.array([4, 5, 6, 7]) / 5.5)
    assert np.isnan(result.effect.sel(head=3).values[2:]).all()
    ends = result.interval()
    assert ends["estimate"].values == pytest.approx(result.mean_effect().values)
    assert float(ends["low"][1]) == float(ends["high"][1]) == pytest.approx(1.0)
    assert result.difference.mean("example").values[:3] == pytest.approx([0, 5.5, 2.75])


def test_an_example_missing_from_a_cell_leaves_numerator_and_denominator() -> None:
    raw = np.array([[4.0, 6.0, np.nan, np.nan]])  # like clean where measured: 1, whatever the other gaps are
    result = EffectResult.from_arrays(raw, CLEAN, CORRUPTED, dims=["head"], coords={"head": [0]})
    assert float(result.mean_effect()[0]) == float(result.interval()["estimate"][0]) == pytest.approx(1.0)


def test_intervals_are_those_of_the_ratio_with_clusters() -> None:
    result = sweep()
    direct = ratio_interval(
        (result.raw - result.corrupted).values, CLEAN - CORRUPTED, clusters=["a", "a", "b", "c"], confidence=0.9
    )
    ends = result.interval(0.9)
    assert ends["low"].dims == ("layer", "position")
    np.testing.assert_allclose(ends["low"].values, direct.low)
    np.testing.assert_allclose(ends["high"].values, direct.high)
    assert np.isnan(ends["estimate"].sel(position=0)).all()


@pytest.mark.parametrize(
    ("clean", "reason"),
    [(np.array([5.0, -3.0, 4.0, -6.0]), "interval does not exclude 0"), (np.array([5.0]), "fewer than two")],
)
def test_effects_are_undefined_without_a_gap(clean: np.ndarray, reason: str) -> None:
    zeros = np.zeros(len(clean))
    result = EffectResult.from_arrays(
        np.ones((2, len(clean))), clean, zeros, dims=["layer"], coords={"layer": [0, 1]}, attrs={"metric": "m"}
    )
    assert reason in str(result.effect_undefined)
    assert np.isnan(result.effect).all() and np.isnan(result.interval()["low"]).all()
    table = result.top(2)
    assert "effect" not in table and list(table["difference"]) == [1.0, 1.0]
    assert "effects are undefined" in result.plot().layout.title.text.replace("<br>", " ")
    assert "effects are undefined" in result._repr_html_()
    assert result.plot("raw").data[0].y.tolist() == [1.0, 1.0]


def test_undefined_is_judged_again_on_a_selection() -> None:
    clean = np.array([5.0, 5.5, 6.0, -30.0])
    whole = EffectResult.from_arrays(np.ones((1, 4)), clean, np.zeros(4), dims=["layer"], coords={"layer": [0]})
    part = EffectResult(whole.data.isel(example=slice(0, 3)))
    assert whole.effect_undefined and part.effect_undefined is None
    assert not np.isnan(part.effect).any()


def test_top_is_ranked_from_the_untouched_cell() -> None:
    table = sweep().top(3)
    assert list(table.columns) == ["site", "layer", "position", "token", "effect", "low", "high", "raw"]
    assert (table.loc[0, "layer"], table.loc[0, "token"]) == (2, "<b>")
    assert table.loc[0, "effect"] == pytest.approx(1) and table.loc[0, "raw"] == pytest.approx(6)
    assert table["effect"].abs().is_monotonic_decreasing and (table["low"] <= table["high"]).all()
    assert len(sweep().top(100)) == 15  # the unmeasured position is not in the table
    # when noising, an untouched cell reads 1, so the cell that reads 0 comes first
    raw = np.array([CLEAN, CORRUPTED, CLEAN - 0.5])
    noising = EffectResult.from_arrays(
        raw, CLEAN, CORRUPTED, dims=["layer"], coords={"layer": range(3)}, attrs={"direction": "noising"}
    )
    assert list(noising.top()["layer"]) == [1, 2, 0]
    assert noising.difference.mean("example").values == pytest.approx([0, -5.5, -0.5])


def test_selection_keeps_kind_labels_and_examples() -> None:
    result = sweep()
    column = result.sel(position=4)
    assert isinstance(column, EffectResult) and column.cell_dims == ["layer"]
    assert column.data.coords["token"].item() == "<b>"
    assert result.sel(layer=[0, 2], position=slice(1, 3)).raw.shape == (2, 3, 4)
    assert result.sel(layer=2, position=4).top().loc[0, "effect"] == pytest.approx(1)
    assert result.data.sizes["position"] == 6  # the original is as before
    with pytest.raises(ResultError, match=r"sel\(\{'layer': 9\}\): expected labels among .*'layer': '0, 1, 2'"):
        result.sel(layer=9)
    with pytest.raises(ResultError, match="expected labels among"):
        result.sel(depth=1)


def test_one_example_keeps_its_dimension() -> None:
    raw = np.stack([CLEAN, CORRUPTED])
    result = EffectResult.from_arrays(
        raw, CLEAN, CORRUPTED, dims=["layer"], coords={"layer": [0, 1], "example": [10, 11, 12, 13]}
    )
    assert result.sel(example=12).raw.shape == (2, 1)


def test_tables_hold_every_example() -> None:
    table = sweep().to_pandas()
    assert len(table) == 3 * 6 * 4
    assert list(table.columns[-4:]) == ["raw", "clean", "corrupted", "effect"]
    assert table["raw"].isna().sum() == 3 * 4


def test_files_give_back_exactly_what_was_saved(tmp_path: Path) -> None:
    result = sweep()
    path = result.save(tmp_path / "deep" / "sweep.nc")
    loaded = Result.load(path)
    assert type(loaded) is EffectResult
    xr.testing.assert_identical(loaded.data.drop_attrs(), result.data.drop_attrs())
    assert {name: variable.dtype for name, variable in loaded.data.variables.items()} == {
        name: variable.dtype for name, variable in result.data.variables.items()
    }
    assert loaded.data.coords["token"].values.tolist() == TOKENS
    assert json.dumps(loaded.attrs) == json.dumps(result.attrs)
    assert [entry.name for entry in path.parent.iterdir()] == ["sweep.nc"]  # no temporary file stays


def test_files_keep_types_that_netcdf_lacks(tmp_path: Path) -> None:
    data = xr.Dataset(
        {
            "half": ("layer", np.array([0.5, np.nan], np.float16)),
            "wide": ("layer", np.array([2**40, -1])),
            "yes": ("layer", np.array([True, False])),
            "small": ("layer", np.array([1, 255], np.uint8)),
            "empty": (("layer", "none"), np.zeros((2, 0))),
            "scalar": ((), 2.5),
        },
        {"layer": [5, 7], "role": ("layer", ["S1", ""]), "time": ("layer", [0, 1], {"units": "days since 2000-01-01"})},
    )
    loaded = Result.load(Result(data).save(tmp_path / "types.nc")).data
    xr.testing.assert_identical(loaded, data)
    assert [loaded[name].dtype for name in data.data_vars] == [data[name].dtype for name in data.data_vars]
    assert list(loaded.data_vars) == list(data.data_vars)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), min_size=1, max_size=5),
    st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), st.lists, max_leaves=5
        ),
        max_size=3,
    ),
)
def test_any_text_and_attributes_survive(
    tmp_path_factory: pytest.TempPathFactory, tokens: list[str], attrs: dict[str, Any]
) -> None:
    coords = {"token": ("position", np.array(tokens, dtype=object))}
    result = Result(xr.Dataset({"x": ("position", np.arange(len(tokens)))}, coords, attrs))
    loaded = Result.load(result.save(tmp_path_factory.mktemp("text") / "x.nc"))
    assert loaded.data.coords["token"].values.tolist() == tokens
    assert json.dumps(loaded.attrs) == json.dumps(result.attrs)


def test_broken_and_foreign_files_are_named(tmp_path: Path) -> None:
    content = sweep().save(tmp_path / "sweep.nc").read_bytes()
    broken = tmp_path / "broken.nc"
    for length in [*range(40), *range(40, len(content), 61), len(content) - 1]:
        broken.write_bytes(content[:length])
        with pytest.raises(ResultError, match=r"broken\.nc"):
            Result.load(broken)
    for start, kind in [(b"\x80\x04\x95", "pickle"), (b"\x89HDF\r\n", "netCDF 4"), (b"PK\x03\x04", "zip")]:
        broken.write_bytes(start + b"x" * 50)
        with pytest.raises(ResultError, match=f"expected a netCDF 3 file written by Result.save, got .*{kind}"):
            Result.load(broken)
    xr.Dataset({"x": 1.0}).to_netcdf(broken, engine="scipy")
    with pytest.raises(ResultError, match=r"not one written by Result\.save"):
        Result.load(broken)
    with pytest.raises(ResultError, match="no such file"):
        Result.load(tmp_path / "absent.nc")
    with pytest.raises(ResultError, match="expected a BaselineResult, got a EffectResult"):
        BaselineResult.load(tmp_path / "sweep.nc")
    broken.write_bytes(content.replace(b"mechkit.results:EffectResult", b"mechkit.results:EvilsResults"))
    with pytest.raises(ResultError, match="no known result"):
        Result.load(broken)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = sweep(seed=1).save(tmp_path / "sweep.nc")
    before = path.read_bytes()
    bad = Result(xr.Dataset({"x": ("layer", np.array([1j, 2j]))}))
    with pytest.raises(ResultError, match="variable 'x': expected numbers"):
        bad.save(path)
    with pytest.raises(ResultError, match="does not fit a netCDF file"):
        Result(xr.Dataset({"x": ("layer", np.array(["\ud800"]))})).save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with pytest.raises(ResultError, match=r"ends in .nc"):
        sweep().save(tmp_path / "sweep.pkl")


def test_figures_by_number_of_cell_dimensions() -> None:
    heatmap = sweep().plot()
    assert heatmap.data[0].type == "heatmap" and heatmap.layout.yaxis.ticktext == ("L0", "L1", "L2")
    assert heatmap.layout.xaxis.ticktext == ("&lt;|bos|&gt;", "the", "café", "the", "&lt;b&gt;", '␀↵"\\')
    assert heatmap.layout.coloraxis.cmax == -heatmap.layout.coloraxis.cmin
    cell = heatmap.data[0].hovertext[2][4]
    assert "layer 2<br>position 4 '&lt;b&gt;'<br>effect: 1<br>interval: 1 to 1" in cell
    assert heatmap.data[0].hovertext[0][0].endswith("not measured")
    assert "site resid_pre" in heatmap.layout.title.text
    bars = sweep().sel(position=4).plot()
    assert bars.data[0].type == "bar" and bars.data[0].y[2] == pytest.approx(1)
    single = sweep().sel(position=4, layer=2).plot()
    assert single.data[0].type == "bar" and len(single.data[0].y) == 1
    folded = sweep().sel(layer=[2]).plot()  # a dimension of length one takes no axis
    assert folded.data[0].type == "bar" and "layer L2" in folded.layout.title.text


def test_three_dimensions_are_small_multiples() -> None:
    raw = np.random.default_rng(0).normal(size=(4, 2, 3, 4))  # position, site, layer, example
    result = EffectResult.from_arrays(
        raw,
        CLEAN,
        CORRUPTED,
        dims=["position", "site", "layer"],
        coords={"position": ["IO", "S1", "S2", "END"], "site": ["attn_out", "mlp_out"], "layer": range(3)},
    )
    figure = result.plot()
    assert len(figure.data) == 2 and figure.data[0].z.shape == (3, 4)  # layers up, positions to the right
    expected = result.mean_effect().sel(site="mlp_out").transpose("layer", "position")
    np.testing.assert_allclose(figure.data[1].z, expected)
    assert figure.layout.annotations[1].text == "mlp_out"
    four = EffectResult(
        result.data.expand_dims(head=[0, 1], axis=0).assign(clean=result.clean, corrupted=result.corrupted)
    )
    with pytest.raises(ResultError, match="at most three dimensions"):
        four.plot()


def test_baseline_lines_and_figure(tmp_path: Path) -> None:
    result = BaselineResult.from_arrays(CLEAN, CORRUPTED, clusters=[0, 0, 1, 1], attrs={"metric": "logit_difference"})
    ends = result.interval()
    assert ends["estimate"].values == pytest.approx([6, 0.5, 5.5])
    assert float(ends["low"].sel(run="gap")) == 4.5 and float(ends["high"].sel(run="gap")) == 6.5  # two clusters' means
    assert str(result).startswith("logit_difference: clean 6 [5, 7], corrupted 0.5 [0.5, 0.5], gap 5.5 [4.5, 6.5]")
    assert result.plot().data[0].y == pytest.approx([6, 0.5, 5.5])
    assert result.plot("gap").data[0].y == pytest.approx([5.5])
    assert type(Result.load(result.save(tmp_path / "b.nc"))) is BaselineResult
    assert str(sweep().baseline).count("gap") == 1
    with pytest.raises(ResultError, match="'clean' must be finite"):
        BaselineResult.from_arrays(np.array([1.0, np.nan]), np.zeros(2))


def test_summaries_are_escaped_and_complete() -> None:
    page = sweep()._repr_html_()
    assert "tiny &lt;b&gt;" in page and "<b>" not in page
    for part in ("logit_difference", "example: 4", "gap 5.5", "<details>", "versions", "effect"):
        assert part in page
    assert repr(sweep()) == "EffectResult('patching · ioi · tiny <b>'; layer: 3, position: 6, example: 4)"
    assert "not a number" in Result(sweep().data)._repr_html_()


def test_plain_results_plot_one_variable() -> None:
    data = xr.Dataset({"a": (("layer", "example"), np.array([[1.0, 3.0], [5.0, 7.0]])), "b": ("layer", [1.0, 2.0])})
    assert Result(data).plot("a").data[0].y.tolist() == [2.0, 6.0]
    with pytest.raises(ResultError, match=r"expected a variable out of \['a', 'b'\], got None"):
        Result(data).plot()


def test_bad_parts_are_named() -> None:
    with pytest.raises(ResultError, match="expected text, numbers, lists or maps of them, got object"):
        Result(xr.Dataset(attrs={"model": object()}))
    with pytest.raises(ResultError, match="expected a variable 'raw'"):
        EffectResult(xr.Dataset({"clean": ("example", CLEAN), "corrupted": ("example", CORRUPTED)}))
    with pytest.raises(ResultError, match="arrays and labels do not line up"):
        EffectResult.from_arrays(np.ones((2, 4)), CLEAN, CORRUPTED, dims=["layer"], coords={"layer": [0, 1, 2]})
    with pytest.raises(ResultError, match="arrays and labels do not line up"):
        EffectResult.from_arrays(np.ones((2, 3)), CLEAN, CORRUPTED, dims=["layer"], coords={})
    with pytest.raises(ResultError, match="expected a value out of"):
        sweep().interval(value="effects")


def test_the_callers_dataset_is_not_changed() -> None:
    data = sweep().data
    data.attrs["tuple"] = (1, 2)
    before = data.copy(deep=True)
    result = EffectResult(data)
    result.plot()
    result.top()
    assert data.attrs["tuple"] == (1, 2) and result.attrs["tuple"] == [1, 2]
    xr.testing.assert_identical(data, before)
    assert results.Result.__module__ == "mechkit.results"
