"""What all figures share: escaped text, tick labels that do not overlap, colour scales, panels, margins."""

import html
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

GREY, INK, MUTED, RULE = "#bdbdbd", "#1f2933", "#5f6b76", "#e3e7eb"
BLUE, RED = "#2166ac", "#b2182b"
FONT = "Helvetica Neue, Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif"
CHARACTER, LINE = 6.4, 13.0  # pixels that a character and a line take at tick size 11
LONGEST_LABEL = 22
# ColorBrewer's RdBu and Blues, low to high
REDS = ("#67001f", "#b2182b", "#d6604d", "#f4a582", "#fddbc7")
BLUES = ("#d1e5f0", "#92c5de", "#4393c3", "#2166ac", "#053061")
DIVERGING = (*REDS, "#f7f7f7", *BLUES)
SEQUENTIAL = ("#f7fbff", "#deebf7", "#c6dbef", "#9ecae1", "#6baed6", "#4292c6", "#2171b5", "#08519c", "#08306b")

Labels = Sequence[object]


def plain(text: object) -> str:
    """Plain text as plotly wants it: markup and formulas escaped, line breaks kept."""
    return html.escape(str(text), quote=False).replace("$", "&#36;").replace("\n", "<br>")


def visible(label: object) -> str:
    """A label on one line, with white space that would vanish made visible."""
    text = str(label).replace("\n", "↵").replace("\r", "␍").replace("\t", "⇥").replace("\0", "␀")
    return text.strip() or "␣" * len(text)


def shortened(label: object) -> str:
    """A tick label, cut to a length that leaves room for the cells."""
    text = visible(label)
    return text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "…"


@dataclass(frozen=True)
class Ticks:
    """One axis: its plotly settings, the length of the axis and the room its labels need beside it, in pixels."""

    axis: dict[str, Any]
    pixels: float
    room: float


def ticks(labels: Labels, pixel: float, *, upright: bool = False) -> Ticks:
    """Tick labels for cells `pixel` wide (or high, when `upright`): level, slanted or thinned so that none overlap."""
    texts = [shortened(label) for label in labels]
    longest = CHARACTER * max(map(len, texts))
    angle = 0
    if upright:
        step, room = math.ceil(LINE / (pixel + 2)), longest
    elif longest + 6 <= pixel or max(map(len, texts)) <= 3:
        step, room = math.ceil((longest + 5) / pixel), LINE
    else:
        angle, step, room = -45, math.ceil(LINE / pixel), 0.72 * longest + 8
    places = list(range(0, len(texts), step))
    axis = {
        "tickmode": "array",
        "tickvals": places,
        "ticktext": [plain(texts[place]) for place in places],
        "tickangle": angle,
        "range": [-0.5, len(texts) - 0.5],
        "tickfont": {"size": 11},
        "ticks": "outside",
        "ticklen": 3,
        "tickcolor": MUTED,
        "showgrid": False,
        "zeroline": False,
        "automargin": True,
        "title": {"standoff": 8, "font": {"size": 12}},
    }
    return Ticks(axis, pixel * len(texts), room)


def column_width(labels: Labels, total: float, *, smallest: float = 16.0) -> float:
    """Pixels for each column: wide enough for level labels where `total` allows that, else `total` shared out."""
    level = CHARACTER * max(len(shortened(label)) for label in labels) + 8
    if max(smallest, level) * len(labels) <= total:
        return max(smallest, level, min(44.0, total / len(labels)))
    return max(smallest if len(labels) <= 80 else 6.0, min(44.0, total / len(labels)))


def row_height(n_rows: int, total: float, *, smallest: float) -> float:
    """Pixels for each row, as near to sharing out `total` as readable labels allow."""
    return max(smallest if n_rows <= 80 else 4.0, min(34.0, total / n_rows), 150.0 / n_rows)


def hover_texts(
    values: Float[np.ndarray, "rows columns"], rows: Labels, columns: Labels, names: Sequence[str], panel: str = ""
) -> np.ndarray:
    """Text shown over each cell: panel, row, column, and the value to six digits."""
    texts = np.empty(values.shape, dtype=object)
    start = f"{panel}\n" if panel else ""
    for (row, column), value in np.ndenumerate(values):
        number = "not measured" if np.isnan(value) else f"{names[2]}: {value:.6g}"
        place = f"{names[0]}: {visible(rows[row])}\n{names[1]}: {visible(columns[column])}"
        texts[row, column] = f"{start}{place}\n{number}"
    return texts


def cell_trace(values: Float[np.ndarray, "rows columns"], hover: Sequence[Sequence[str]] | np.ndarray) -> go.Heatmap:
    """The coloured cells of one panel, on the figure's shared colour axis."""
    texts = [[plain(text) for text in row] for row in hover]
    return go.Heatmap(z=values, coloraxis="coloraxis", hovertext=texts, hoverinfo="text")


def colours(values: np.ndarray, colour_title: str, centre: float | int | None, pixels: float) -> dict[str, Any]:
    """The colour axis: symmetric about the centre, or from the smallest value to the largest where there is none.

    `pixels` is the height of the colour bar; on a short one the title breaks before its bracket.
    """
    if len(colour_title) * CHARACTER > pixels:
        colour_title = colour_title.replace(" (", "\n(")
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if centre is not None:
        reach = max(abs(low - centre), abs(high - centre)) if finite.size else 0.0
        low, high = centre - (reach or 1.0), centre + (reach or 1.0)
    elif low == high:
        high = low + 1
    scale = SEQUENTIAL if centre is None else DIVERGING
    # the empty first line keeps the title clear of the numbers
    title = {"text": "\u00a0<br>" + plain(colour_title), "side": "right", "font": {"size": 12}}
    bar = {
        "title": title,
        "thickness": 14,
        "outlinewidth": 0,
        "tickfont": {"size": 11},
        "ticks": "outside",
        "ticklen": 3,
    }
    steps = [[index / (len(scale) - 1), colour] for index, colour in enumerate(scale)]
    return {"colorscale": steps, "cmin": low, "cmax": high, "colorbar": bar}


def panels_across(n_panels: int, n_rows: int, n_columns: int) -> int:
    """How many panels of this shape to put side by side for a page-like whole."""
    if n_panels <= 3:
        return n_panels
    shape = min(3.0, max(0.3, n_columns / n_rows))
    wanted = max(2, min(n_panels, 6, round(math.sqrt(1.4 * n_panels / shape))))
    even = [across for across in range(max(2, wanted - 2), wanted + 2) if n_panels % across == 0]
    return min(even, key=lambda across: abs(across - wanted), default=wanted)


def panel_grid(
    panels: Labels, across: int, axes: tuple[Ticks, Ticks], titles: tuple[str, str]
) -> tuple[go.Figure, tuple[float, float]]:
    """An empty grid of titled panels and its size in pixels; ticks at the left and at the foot of each column only."""
    horizontal, vertical = axes
    down = math.ceil(len(panels) / across)
    gap_across, gap_down = 18.0, 34.0
    width = across * horizontal.pixels + (across - 1) * gap_across
    height = down * vertical.pixels + (down - 1) * gap_down
    places = [divmod(index, across) for index in range(len(panels))]
    figure = make_subplots(
        rows=down,
        cols=across,
        specs=[[{} if (row, column) in places else None for column in range(across)] for row in range(down)],
        subplot_titles=[plain(visible(panel)) if str(panel) else "" for panel in panels],
        horizontal_spacing=gap_across / width,
        vertical_spacing=gap_down / height,
    )
    figure.update_annotations(font={"size": 12, "color": INK})
    for row, column in places:
        foot, left = (row + 1, column) not in places, column == 0
        place = {"row": row + 1, "col": column + 1}
        # slanted labels of a panel above a gap in the last row would run under that row's panels
        foot = foot and (row == down - 1 or horizontal.axis["tickangle"] == 0)
        figure.update_xaxes(horizontal.axis | {"showticklabels": foot, "ticks": "outside" if foot else ""}, **place)
        figure.update_yaxes(vertical.axis | {"showticklabels": left, "ticks": "outside" if left else ""}, **place)
        if left:
            figure.update_yaxes(title_text=plain(titles[0]), **place)
        if foot:
            figure.update_xaxes(title_text=plain(titles[1]), **place)
    return figure, (width, height)


def whiskers(
    places: np.ndarray, lows: Float[np.ndarray, " bars"], highs: Float[np.ndarray, " bars"], *, lying: bool
) -> go.Scatter:
    """Intervals as capped lines from `lows` to `highs`, drawn as they are even where an estimate lies outside."""
    along = np.repeat(places.astype(np.float64), 3)
    across = np.stack([lows, highs, np.full(len(lows), np.nan)], axis=-1).ravel()
    return go.Scatter(
        x=across if lying else along,
        y=along if lying else across,
        mode="lines+markers",
        line={"color": INK, "width": 1.4},
        marker={"symbol": "line-ns-open" if lying else "line-ew-open", "size": 8, "color": INK, "line": {"width": 1.4}},
        hoverinfo="skip",
    )


def bar_texts(labels: Labels, estimates: np.ndarray, lows: np.ndarray, highs: np.ndarray, value_name: str) -> list[str]:
    """Text shown over each bar: label, value to six digits, interval."""
    texts = []
    for label, estimate, low, high in zip(labels, estimates, lows, highs, strict=True):
        number = "not measured" if np.isnan(estimate) else f"{value_name}: {estimate:.6g}"
        interval = "" if np.isnan(low) else f"\ninterval: {low:.4g} to {high:.4g}"
        texts.append(f"{visible(label)}\n{number}{interval}")
    return texts


def finish(
    figure: go.Figure,
    size: tuple[float, float],
    title: str,
    room: tuple[float, float],
    *,
    missing: bool,
    background: str = GREY,
    colour_bar: bool = True,
) -> go.Figure:
    """Title, margins and size: `size` is that of the panels, `room` what the labels at the left and below need."""
    panelled = any(annotation.text for annotation in figure.layout.annotations)
    left, right = room[0] + 46, 120 if colour_bar else 24
    width = max(size[0] + left + right, 340.0)
    heading, *rest = title.split("\n") if title else [""]
    lines = textwrap.wrap(heading, int((width - 30) / 8.2))
    small = [line for part in rest for line in textwrap.wrap(part, int((width - 30) / 6.2))]
    text = "<br>".join(map(plain, lines))
    if small:
        smaller = "<br>".join(map(plain, small))
        text += f"<br><span style='font-size:12px;color:{MUTED}'>{smaller}</span>"
    top = 20 + 21 * len(lines) + 17 * len(small) + (26 if panelled else 0) + (12 if missing else 0)
    top += 9 * max(0, len(lines) + len(small) - 2)  # plotly sets a title of many lines lower
    bottom = room[1] + 40
    if missing:
        note = {"text": "grey: not measured", "showarrow": False, "font": {"size": 11, "color": MUTED}}
        corner = {"x": 1, "xref": "paper", "xanchor": "right", "y": 1, "yref": "paper", "yanchor": "bottom"}
        figure.add_annotation(**note, **corner, yshift=16 if panelled else 1)
    figure.update_layout(
        template=go.layout.Template(),  # an empty one, so that the user's default has no say
        title={
            "text": text,
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
        },
        title_pad={"l": 14, "t": 14 + 11 * (len(lines) + len(small) - 1)},  # plotly centres several lines
        title_font={"size": 15},
        font={"family": FONT, "size": 12, "color": INK},
        width=round(width),
        height=round(size[1] + top + bottom),
        margin={"l": left, "r": right, "t": top, "b": bottom},
        plot_bgcolor=background,
        paper_bgcolor="white",
        showlegend=False,
        hoverlabel={"align": "left", "font": {"family": FONT, "size": 12}},
    )
    return figure
