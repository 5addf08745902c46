"""Arrays in, plotly figures out: heatmaps, small multiples, attention patterns, bars with intervals, image files.

One look everywhere: red-blue around zero with symmetric limits, **blue positive, red negative**; a white-to-blue scale
for probabilities and attention; **NaN is grey** and means "not measured". Row 0 is at the bottom (layer 0 below),
except in attention patterns, whose destinations read downwards. Cells sit on integer coordinates, so that a repeated
label never merges two of them. Every text argument is plain text: it is escaped here, and a newline breaks the line.
The first line of `title` is the title, the rest is set smaller below it. No figure is shown here, and no default of
plotly's is read or changed.
"""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Num

from ._drawing import (
    BLUE,
    GREY,
    INK,
    RED,
    RULE,
    Labels,
    bar_texts,
    cell_trace,
    colours,
    column_width,
    finish,
    hover_texts,
    panel_grid,
    panels_across,
    plain,
    row_height,
    ticks,
    whiskers,
)
from ._images import write_image, write_images
from .errors import ResultError

__all__ = ["attention", "bars", "heatmap", "heatmaps", "write_image", "write_images"]


def heatmap(
    values: Num[np.ndarray, "_rows _columns"],
    rows: Labels,
    columns: Labels,
    *,
    title: str = "",
    row_title: str = "",
    column_title: str = "",
    colour_title: str = "",
    hover: Sequence[Sequence[str]] | np.ndarray | None = None,
    centre: float | int | None = 0.0,
) -> go.Figure:
    """One heatmap, row 0 at the bottom.

    `colour_title` is the unit of the colour bar; `hover` replaces the text of every cell. Colours diverge from
    `centre`, blue above it and red below; None colours from the smallest value (white) to the largest (blue).
    Raises `ResultError` when labels or hover texts do not line up with `values`.
    """
    values = _checked("heatmap", values, 2, (("rows", rows), ("columns", columns)))
    if hover is not None and np.shape(hover) != values.shape:
        raise ResultError(f"heatmap: expected hover texts of shape {values.shape}, got {np.shape(hover)}")
    names = (row_title or "row", column_title or "column", colour_title.split("\n")[0] or "value")
    horizontal = ticks(columns, column_width(columns, 780.0))
    vertical = ticks(rows, row_height(len(rows), 420.0, smallest=18.0), upright=True)
    texts = hover_texts(values, rows, columns, names) if hover is None else hover
    figure = go.Figure(cell_trace(values, texts))
    figure.update_xaxes(horizontal.axis, title_text=plain(column_title))
    figure.update_yaxes(vertical.axis, title_text=plain(row_title))
    size, room = (horizontal.pixels, vertical.pixels), (vertical.room, horizontal.room)
    figure.update_layout(coloraxis=colours(values, colour_title, centre, size[1]))
    return finish(figure, size, title, room, missing=bool(np.isnan(values).any()))


def heatmaps(
    values: Num[np.ndarray, "_panels _rows _columns"],
    panels: Labels,
    rows: Labels,
    columns: Labels,
    *,
    title: str = "",
    row_title: str = "",
    column_title: str = "",
    colour_title: str = "",
    hover: Sequence[Sequence[Sequence[str]]] | np.ndarray | None = None,
    centre: float | int | None = 0.0,
) -> go.Figure:
    """Small multiples: one heatmap for each of `panels`, all on one colour range, rows and columns shared.

    Arguments and errors are those of `heatmap`, with one leading axis more.
    """
    values = _checked("heatmaps", values, 3, (("panels", panels), ("rows", rows), ("columns", columns)))
    if hover is not None and np.shape(hover) != values.shape:
        raise ResultError(f"heatmaps: expected hover texts of shape {values.shape}, got {np.shape(hover)}")
    names = (row_title or "row", column_title or "column", colour_title.split("\n")[0] or "value")
    across = panels_across(len(panels), len(rows), len(columns))
    horizontal = ticks(columns, column_width(columns, max(220.0, 1000 / across), smallest=9.0))
    vertical = ticks(rows, row_height(len(rows), 260.0, smallest=11.0), upright=True)
    figure, size = panel_grid(panels, across, (horizontal, vertical), (row_title, column_title))
    for index, panel in enumerate(values):
        texts = hover_texts(panel, rows, columns, names, str(panels[index])) if hover is None else hover[index]
        figure.add_trace(cell_trace(panel, texts), row=index // across + 1, col=index % across + 1)
    figure.update_layout(coloraxis=colours(values, colour_title, centre, size[1]))
    return finish(figure, size, title, (vertical.room, horizontal.room), missing=bool(np.isnan(values).any()))


def attention(
    pattern: Num[np.ndarray, "*_heads _query _key"],
    tokens: Labels,
    *,
    heads: Labels | None = None,
    title: str = "",
    causal: bool = True,
) -> go.Figure:
    """Attention of one prompt: destination (query) rows reading downwards × source (key) columns, one panel per head.

    `pattern` holds probabilities, [query, key] or [heads, query, key]; with `causal` the part above the diagonal, which
    cannot attend, is left blank. `heads` names the panels (default H0, H1, …). Raises `ResultError` for shapes that do
    not fit `tokens`.
    """
    single = np.ndim(pattern) == 2
    stacked = np.asarray(pattern, dtype=np.float64)[None] if single else np.asarray(pattern, dtype=np.float64)
    titles = [""] if single and heads is None else heads
    heads = [f"H{index}" for index in range(len(stacked))] if heads is None else heads
    stacked = _checked("attention", stacked, 3, (("heads", heads), ("tokens", tokens), ("tokens", tokens)))
    count = len(tokens)
    blank = np.triu(np.ones((count, count), dtype=bool), k=1) if causal else np.zeros((count, count), dtype=bool)
    across = 1 if single else panels_across(len(heads), count, count)
    pixel = max(18.0, min(30.0, 420 / count)) if single else max(6.0, min(20.0, 260 / count))
    horizontal, vertical = ticks(tokens, pixel), ticks(tokens, pixel, upright=True)
    vertical.axis["range"] = vertical.axis["range"][::-1]
    figure, size = panel_grid(titles or heads, across, (horizontal, vertical), ("destination", "source"))
    for index, probabilities in enumerate(stacked):
        shown = np.where(blank, np.nan, probabilities)
        hover = np.where(blank, "", hover_texts(shown, tokens, tokens, ("to", "from", "attention"), str(heads[index])))
        place = {"row": index // across + 1, "col": index % across + 1}
        unmeasured = np.where(np.isnan(probabilities) & ~blank, 1.0, np.nan)
        grey = [[0, GREY], [1, GREY]]
        figure.add_trace(go.Heatmap(z=unmeasured, colorscale=grey, showscale=False, hoverinfo="skip"), **place)
        figure.add_trace(cell_trace(shown, hover), **place)
    figure.update_xaxes(showline=True, linecolor=RULE, mirror=True)
    figure.update_yaxes(showline=True, linecolor=RULE, mirror=True)
    figure.update_layout(coloraxis=colours(np.array([[0.0, 1.0]]), "attention probability", None, size[1]))
    missing = bool(np.isnan(stacked[:, ~blank]).any())
    return finish(figure, size, title, (vertical.room, horizontal.room), missing=missing, background="white")


def bars(
    labels: Labels,
    estimates: Num[np.ndarray, " _bars"],
    lows: Num[np.ndarray, " _bars"] | None = None,
    highs: Num[np.ndarray, " _bars"] | None = None,
    *,
    title: str = "",
    label_title: str = "",
    value_title: str = "",
    hover: Sequence[str] | None = None,
) -> go.Figure:
    """Bars coloured by sign, with whiskers from `lows` to `highs`; a bar that was not measured (NaN) is a grey band.

    Upright where the labels are short, else lying, with the first label at the top. Raises `ResultError` when lengths
    differ.
    """
    low, high = (np.full(len(labels), np.nan) if end is None else np.asarray(end, np.float64) for end in (lows, highs))
    estimates = np.asarray(estimates, dtype=np.float64)
    lengths = {"labels": len(labels), "estimates": estimates.shape, "lows": low.shape, "highs": high.shape}
    if len(labels) == 0 or any(array.shape != (len(labels),) for array in (estimates, low, high)):
        raise ResultError(f"bars: expected one estimate, low and high for each of at least one label, got {lengths}")
    lying = max(len(str(label)) for label in labels) > 10
    places = np.arange(len(labels))
    texts = hover or bar_texts(labels, estimates, low, high, value_title.split("\n")[0] or "value")
    along, across = ("y", "x") if lying else ("x", "y")
    figure = go.Figure()
    figure.add_trace(
        go.Bar(
            {along: places, across: estimates},
            orientation="h" if lying else "v",
            marker_color=[RED if estimate < 0 else BLUE for estimate in estimates],
            marker_opacity=0.85,
            hovertext=[plain(text) for text in texts],
            hoverinfo="text",
        )
    )
    figure.add_trace(whiskers(places, low, high, lying=lying))
    draw_band = figure.add_hrect if lying else figure.add_vrect
    for place in places[np.isnan(estimates)]:
        spot = {f"{along}0": place - 0.4, f"{along}1": place + 0.4}
        draw_band(**spot, fillcolor=GREY, line_width=0, layer="below")
    label_ticks = ticks(labels, 24.0 if lying else column_width(labels, 640.0, smallest=26.0), upright=lying)
    value_axis = {
        "zeroline": True,
        "zerolinecolor": INK,
        "gridcolor": RULE,
        "tickfont": {"size": 11},
        "automargin": True,
    }
    value_axis |= {"title": {"text": plain(value_title), "standoff": 8, "font": {"size": 12}}}
    label_axis = label_ticks.axis | {"title_text": plain(label_title)}
    if lying:
        label_axis["range"] = label_axis["range"][::-1]
    figure.update_layout(**{f"{along}axis": label_axis, f"{across}axis": value_axis})
    size, room = (
        ((460.0, label_ticks.pixels), (label_ticks.room, 24.0))
        if lying
        else ((label_ticks.pixels, 300.0), (40.0, label_ticks.room))
    )
    missing = bool(np.isnan(estimates).any())
    return finish(figure, size, title, room, missing=missing, background="white", colour_bar=False)


def _checked(
    caller: str, values: np.ndarray, dims: int, labels: Sequence[tuple[str, Labels]]
) -> Float[np.ndarray, "..."]:
    """`values` as floats, once its axes and the labels of each axis are known to line up."""
    array = np.asarray(values, dtype=np.float64)
    lengths = {f"{name} (axis {axis})": len(texts) for axis, (name, texts) in enumerate(labels)}
    if array.ndim != dims or array.shape != tuple(lengths.values()) or 0 in array.shape:
        raise ResultError(
            f"{caller}: expected {dims} axes with one label for each of at least one entry, got values of shape "
            f"{array.shape} and labels {lengths}"
        )
    return array
