"""Figures: geometry, signs and colours, grey cells, labels, escaping, sizes, and image files."""

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import pytest

from mechkit import figures
from mechkit.errors import ChromeMissingError, ResultError

LAYERS = [f"L{index}" for index in range(12)]
SENTENCE = "<|endoftext|> When Mary and John went to the store , John gave a drink to the <b> $x$ extraordinarily"
TOKENS = SENTENCE.split()


def grid(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_heatmap_colours_are_symmetric_and_blue_is_positive() -> None:
    figure = figures.heatmap(np.array([[-1.0, 0.5], [4.0, 0.0]]), ["L0", "L1"], ["a", "b"])
    axis = figure.layout.coloraxis
    assert (axis.cmin, axis.cmax) == (-4.0, 4.0)
    low, middle, high = (axis.colorscale[index][1] for index in (0, 5, 10))
    red, _, blue = (int(low[start : start + 2], 16) for start in (1, 3, 5))
    assert red > 2 * blue  # the low end is red
    red, _, blue = (int(high[start : start + 2], 16) for start in (1, 3, 5))
    assert blue > 2 * red  # the high end is blue
    assert middle == "#f7f7f7" and axis.colorscale[5][0] == 0.5


def test_colours_turn_at_the_centre() -> None:
    axis = figures.heatmap(np.array([[0.2, 1.0, 1.1]]), ["r"], list("abc"), centre=1.0).layout.coloraxis
    assert np.allclose((axis.cmin, axis.cmax), (0.2, 1.8))


def test_sequential_runs_from_smallest_to_largest() -> None:
    axis = figures.heatmap(np.array([[2.0, 3.0, 7.0]]), ["r"], list("abc"), centre=None).layout.coloraxis
    assert (axis.cmin, axis.cmax) == (2.0, 7.0)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_nothing_to_scale_still_has_a_range(value: float) -> None:
    axis = figures.heatmap(np.full((2, 2), value), ["a", "b"], ["c", "d"]).layout.coloraxis
    assert (axis.cmin, axis.cmax) == (-1.0, 1.0)


def test_row_zero_is_at_the_bottom() -> None:
    figure = figures.heatmap(grid(12, 3), LAYERS, list("abc"))
    assert list(figure.layout.yaxis.range) == [-0.5, 11.5]
    assert figure.layout.yaxis.ticktext[0] == "L0" and figure.layout.yaxis.tickvals[0] == 0
    assert figure.data[0].y is None  # rows sit on 0, 1, 2, …


def test_repeated_tokens_keep_their_columns() -> None:
    figure = figures.heatmap(grid(2, 4), ["a", "b"], [" the", " the", "the", " the"])
    assert figure.data[0].z.shape == (2, 4)
    assert figure.layout.xaxis.tickvals == (0, 1, 2, 3) and figure.layout.xaxis.ticktext == ("the",) * 4


def test_unmeasured_cells_are_grey_and_said_to_be() -> None:
    values = grid(3, 3)
    notes = [note.text for note in figures.heatmap(values, list("abc"), list("def")).layout.annotations]
    assert notes == []
    values[1, 1] = np.nan
    figure = figures.heatmap(values, list("abc"), list("def"), colour_title="effect")
    assert [note.text for note in figure.layout.annotations] == ["grey: not measured"]
    red, green, blue = (int(figure.layout.plot_bgcolor[start : start + 2], 16) for start in (1, 3, 5))
    assert red == green == blue < 220  # darker than the near-white that zero has
    assert np.isnan(figure.data[0].z[1, 1])
    assert figure.data[0].hovertext[1][1] == "row: b<br>column: e<br>not measured"
    assert figure.data[0].hovertext[0][0] == f"row: a<br>column: d<br>effect: {values[0, 0]:.6g}"


def test_all_text_is_escaped() -> None:
    hover = [["<i>cell</i>\nline"]]
    figure = figures.heatmap(
        np.ones((1, 1)), ["<b>"], ["$x$ & \n"], title="a<b\nsecond", row_title="<r>", colour_title="<c>", hover=hover
    )
    layout = figure.layout
    assert layout.yaxis.ticktext == ("&lt;b&gt;",)
    assert layout.xaxis.ticktext == ("&#36;x&#36; &amp; ↵",)
    assert layout.title.text.startswith("a&lt;b<br>") and "second" in layout.title.text
    assert layout.yaxis.title.text == "&lt;r&gt;"
    assert layout.coloraxis.colorbar.title.text.endswith("&lt;c&gt;")
    assert figure.data[0].hovertext[0][0] == "&lt;i&gt;cell&lt;/i&gt;<br>line"


def test_invisible_labels_become_visible() -> None:
    figure = figures.heatmap(np.ones((1, 4)), ["r"], ["  ", "\t", "\0", "x" * 50])
    assert figure.layout.xaxis.ticktext[:3] == ("␣␣", "⇥", "␀")
    assert len(figure.layout.xaxis.ticktext[3]) == 22 and figure.layout.xaxis.ticktext[3].endswith("…")


@pytest.mark.parametrize(("rows", "columns"), [(12, 20), (30, 16), (30, 9), (12, 120), (1, 1)])
def test_tick_labels_have_room(rows: int, columns: int) -> None:
    names = [TOKENS[index % len(TOKENS)] for index in range(columns)]
    figure = figures.heatmap(grid(rows, columns), [f"L{index}" for index in range(rows)], names)
    layout = figure.layout
    width = layout.width - layout.margin.l - layout.margin.r
    height = layout.height - layout.margin.t - layout.margin.b
    assert layout.width <= 1100 and layout.height <= 800
    shown = layout.xaxis.tickvals
    spacing = width / columns * (shown[1] - shown[0] if len(shown) > 1 else 1)
    longest = max(len(re.sub(r"&\w+;", "x", text)) for text in layout.xaxis.ticktext)
    assert spacing >= (12.9 if layout.xaxis.tickangle == -45 else 5 * longest)
    assert height / rows >= 12 and len(layout.yaxis.tickvals) == rows  # every layer has its label
    if columns <= 20:
        assert len(shown) == columns  # and every position


def test_no_plotly_default_has_a_say(monkeypatch: pytest.MonkeyPatch) -> None:
    before = figures.heatmap(grid(2, 2), list("ab"), list("cd")).to_json()
    monkeypatch.setattr(pio.templates, "default", "plotly_dark")
    assert figures.heatmap(grid(2, 2), list("ab"), list("cd")).to_json() == before
    assert pio.templates.default == "plotly_dark"


def test_small_multiples_share_one_range() -> None:
    values = np.stack([grid(3, 4), 10 * grid(3, 4, seed=1)])
    figure = figures.heatmaps(values, ["<H0>", "H1"], list("abc"), list("defg"), colour_title="effect")
    assert [trace.coloraxis for trace in figure.data] == ["coloraxis", "coloraxis"]
    assert figure.layout.coloraxis.cmax == np.abs(values).max()
    assert [note.text for note in figure.layout.annotations] == ["&lt;H0&gt;", "H1"]
    assert figure.data[1].hovertext[0][0].startswith("H1<br>row: a")
    assert figure.layout.xaxis.ticktext == figure.layout.xaxis2.ticktext == ("d", "e", "f", "g")


@pytest.mark.parametrize("panels", [1, 2, 5, 9, 12, 16, 32])
def test_every_panel_is_drawn_once(panels: int) -> None:
    figure = figures.heatmaps(grid(panels, 3, 4), range(panels), list("abc"), list("defg"))
    assert len(figure.data) == panels
    axes = {trace.xaxis or "x" for trace in figure.data}
    assert len(axes) == panels and figure.layout.width < 1400


def test_attention_masks_the_future_only_when_causal() -> None:
    pattern = np.full((3, 3), 1 / 3)
    causal = figures.attention(pattern, ["a", "b", "b"]).data[1].z
    assert np.isnan(causal[np.triu_indices(3, 1)]).all() and (causal[np.tril_indices(3)] == 1 / 3).all()
    both = figures.attention(pattern, ["a", "b", "b"], causal=False)
    assert (both.data[1].z == 1 / 3).all()
    assert list(both.layout.yaxis.range) == [2.5, -0.5]  # destinations read downwards
    assert (both.layout.yaxis.title.text, both.layout.xaxis.title.text) == ("destination", "source")
    assert (both.layout.coloraxis.cmin, both.layout.coloraxis.cmax) == (0.0, 1.0)
    assert both.data[1].hovertext[2][0] == "H0<br>to: b<br>from: a<br>attention: 0.333333"


def test_attention_heads_and_unmeasured_entries() -> None:
    pattern = np.tril(np.ones((4, 3, 3))) / np.arange(1, 4)[:, None]
    pattern[2, 1, 0] = np.nan
    figure = figures.attention(pattern, list("abc"), heads=["L0H0", "L0H1", "L1H0", "L1H1"])
    assert [note.text for note in figure.layout.annotations][:4] == ["L0H0", "L0H1", "L1H0", "L1H1"]
    assert figure.layout.annotations[-1].text == "grey: not measured"
    greys = [np.flatnonzero(~np.isnan(trace.z)) for trace in figure.data[::2]]
    assert [len(cells) for cells in greys] == [0, 0, 1, 0] and greys[2][0] == 3
    assert len(figure.layout.annotations) == 5


def test_bars_have_signs_whiskers_and_grey_gaps() -> None:
    estimates = np.array([1.0, -2.0, np.nan, 0.5])
    highs = np.array([2.0, -1.0, np.nan, 0.4])
    figure = figures.bars(list("abcd"), estimates, estimates - 0.5, highs, value_title="effect")
    bar, whiskers = figure.data
    assert [colour == figures.BLUE for colour in bar.marker.color] == [True, False, True, True]
    assert np.asarray(whiskers.y)[[0, 1, 3, 4]].tolist() == [0.5, 2.0, -2.5, -1.0]
    assert np.asarray(whiskers.y)[[9, 10]].tolist() == [0.0, 0.4]  # drawn as it is, though it misses the estimate
    assert [(shape.x0, shape.x1, shape.fillcolor) for shape in figure.layout.shapes] == [(1.6, 2.4, "#bdbdbd")]
    assert bar.hovertext[0] == "a<br>effect: 1<br>interval: 0.5 to 2"
    assert figure.layout.annotations[-1].text == "grey: not measured"


def test_bars_lie_down_under_long_labels() -> None:
    figure = figures.bars(["a long label here", "b"], np.array([1.0, 2.0]))
    assert figure.data[0].orientation == "h" and list(figure.data[0].x) == [1.0, 2.0]
    assert list(figure.layout.yaxis.range) == [1.5, -0.5]  # the first label on top
    assert figures.bars(["a", "b"], np.array([1.0, 2.0])).data[0].orientation == "v"


def test_bad_shapes_are_named() -> None:
    with pytest.raises(
        ResultError, match=r"heatmap: expected 2 axes .* shape \(2, 3\) and labels .*'rows \(axis 0\)': 1"
    ):
        figures.heatmap(np.ones((2, 3)), ["a"], list("bcd"))
    with pytest.raises(ResultError, match="hover texts of shape"):
        figures.heatmap(np.ones((2, 2)), list("ab"), list("cd"), hover=[["x"]])
    with pytest.raises(ResultError, match="at least one entry"):
        figures.heatmap(np.ones((0, 2)), [], list("ab"))
    with pytest.raises(ResultError, match="heatmaps: expected 3 axes"):
        figures.heatmaps(np.ones((2, 2, 2)), ["one"], list("ab"), list("cd"))
    with pytest.raises(ResultError, match="attention: expected 3 axes"):
        figures.attention(np.ones((2, 2)), list("abc"))
    with pytest.raises(ResultError, match="bars: expected one estimate"):
        figures.bars(["a", "b"], np.ones(3))


@pytest.fixture(scope="module")
def chrome() -> None:
    pytest.importorskip("kaleido", reason="kaleido is not installed")
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))):
        pytest.skip("no Chrome or Chromium on this machine")


def test_images_are_whole_and_of_their_size(tmp_path: Path, chrome: None) -> None:
    wanted = figures.heatmap(grid(12, 20), LAYERS, (TOKENS * 2)[:20], title="Patching")
    paths = figures.write_images({tmp_path / "new" / "a.png": wanted, tmp_path / "b.svg": wanted}, scale=1.0)
    content = paths[0].read_bytes()
    assert content.startswith(b"\x89PNG") and content.endswith(b"IEND\xaeB`\x82")
    size = (int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big"))
    assert size == (wanted.layout.width, wanted.layout.height)
    drawing = paths[1].read_text("utf-8")
    assert "</svg>" in drawing and all(f">{name}<" in drawing for name in ("L0", "L11", "&#60;b&#62;", "$x$"))
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["a.png", "b.svg"]


def test_a_missing_package_or_browser_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "figure.png"
    path.write_text("old")
    figure = go.Figure(layout={"width": 100, "height": 100})
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "kaleido", None)
        with pytest.raises(ChromeMissingError, match=r"pip install 'mechkit-interp\[png\]'"):
            figures.write_image(figure, path)
    pytest.importorskip("kaleido", reason="kaleido is not installed")
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "no-browser"))
    with pytest.raises(ChromeMissingError, match="apt-get install chromium"):
        figures.write_image(figure, path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_an_unknown_image_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match=r"ends in \.png, \.svg or \.pdf, got 'figure\.gif'"):
        figures.write_image(go.Figure(), tmp_path / "figure.gif")
