"""Blocks of text, table and figure, laid out as one HTML page that needs no network.

The page carries its own style sheet and, where there is a figure, plotly.js once (about 5 MB). A content security
policy in the page forbids it to fetch anything. All text is escaped; figures stay on white, also in a dark theme.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ._files import replacing
from ._summary import cell_text
from .errors import ResultError

__all__ = ["Block", "Details", "Figure", "Heading", "Preformatted", "Table", "Text", "page_html", "write_page"]


BUTTONS = [["toImage", "zoom2d", "resetScale2d"]]  # none that would leave the page


@dataclass(frozen=True)
class Heading:
    """A heading; level 2 for a section, 3 and 4 below it (1 is the page's title)."""

    text: str
    level: int = 2

    def __post_init__(self) -> None:
        if not 2 <= self.level <= 4:
            raise ResultError(f"Heading: expected a level from 2 to 4, got {self.level}")


@dataclass(frozen=True)
class Text:
    """Paragraphs of plain text; an empty line begins a new one."""

    text: str


@dataclass(frozen=True)
class Preformatted:
    """Text in a fixed-width font with its line breaks kept: code, a log, a command."""

    text: str


@dataclass(frozen=True, eq=False)
class Table:
    """A table with an optional caption; fractions are shown to `digits` significant digits, NaN as a dash."""

    frame: pd.DataFrame
    caption: str = ""
    digits: int = 3


@dataclass(frozen=True, eq=False)
class Figure:
    """A plotly figure with an optional caption; narrower windows shrink it, and scroll where it would get too small."""

    figure: go.Figure
    caption: str = ""


@dataclass(frozen=True)
class Details:
    """Blocks folded away behind a line of text."""

    summary: str
    blocks: Sequence["Heading | Text | Preformatted | Table | Figure | Details"]


Block = Heading | Text | Preformatted | Table | Figure | Details


def write_page(path: str | Path, title: str, blocks: Sequence[Block]) -> Path:
    """Write `page_html` to `path`, which appears whole or not at all. The suffix must be .html."""
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ResultError(f"write_page: expected a path that ends in .html, got {path.name!r}")
    content = page_html(title, blocks)
    with replacing(path) as temporary:
        temporary.write_text(content, encoding="utf-8")
    return path


def page_html(title: str, blocks: Sequence[Block]) -> str:
    """The whole page as text; the same blocks give the same text, byte for byte."""
    n_figures = 0

    def render(block: Block) -> Markup:
        nonlocal n_figures
        if isinstance(block, Details):
            inner = Markup("\n").join(render(part) for part in block.blocks)
            return Markup("<details><summary>{}</summary>\n{}\n</details>").format(block.summary, inner)
        if isinstance(block, Figure):
            n_figures += 1
            return _figure(block, n_figures)
        return _plain_block(block)

    body = [render(block) for block in blocks]
    return _PAGE.render(title=title, blocks=body, plotly=Markup(get_plotlyjs()) if n_figures else "")


def _plain_block(block: Heading | Text | Preformatted | Table) -> Markup:
    if isinstance(block, Heading):
        return Markup("<h{0}>{1}</h{0}>").format(block.level, block.text)
    if isinstance(block, Text):
        paragraphs = [part.strip() for part in block.text.split("\n\n")]
        return Markup("\n").join(Markup("<p>{}</p>").format(part) for part in paragraphs if part)
    if isinstance(block, Preformatted):
        return Markup("<pre>{}</pre>").format(block.text)
    if isinstance(block, Table):
        return _table(block)
    raise ResultError(
        f"page: expected Heading, Text, Preformatted, Table, Figure or Details, got {type(block).__name__}"
    )


def _table(table: Table) -> Markup:
    frame = table.frame
    if not isinstance(frame.index, pd.RangeIndex):
        frame = frame.reset_index()
    numeric = [pd.api.types.is_numeric_dtype(dtype) for dtype in frame.dtypes]
    columns = [(str(name), "number" if number else "text") for name, number in zip(frame.columns, numeric, strict=True)]
    rows = [
        [(cell_text(value, table.digits), kind) for value, (_, kind) in zip(row, columns, strict=True)]
        for row in frame.itertuples(index=False, name=None)
    ]
    return Markup(_TABLE.render(columns=columns, rows=rows, caption=table.caption))


def _figure(block: Figure, number: int) -> Markup:
    """A figure that follows the window's width, between 60% of its own size and all of it."""
    figure = go.Figure(block.figure)
    width, height = figure.layout.width or 900, figure.layout.height or 520
    figure.update_layout(width=None, height=height, autosize=True)
    html = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=f"figure-{number}",
        default_width="100%",
        default_height=f"{height}px",
        config={"displaylogo": False, "responsive": True, "modeBarButtons": BUTTONS},
    )
    size = Markup("max-width:{}px;min-width:{}px").format(round(width), round(min(width, max(320, 0.6 * width))))
    caption = Markup("<figcaption>{}</figcaption>").format(block.caption) if block.caption else ""
    template = Markup("<figure><div class='scroll'><div class='plot' style='{}'>{}</div></div>{}</figure>")
    return template.format(size, Markup(html), caption)


_ENVIRONMENT = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)

_TABLE = _ENVIRONMENT.from_string("""\
<div class="scroll"><table>
{% if caption %}<caption>{{ caption }}</caption>{% endif %}

<thead><tr>{% for name, kind in columns %}<th class="{{ kind }}">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}
<tr>{% for value, kind in row %}<td class="{{ kind }}">{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>""")

_STYLE = Markup("""\
:root { color-scheme: light dark; --ink: #1f2933; --muted: #5f6b76; --paper: #fff; --rule: #e3e7eb; --shade: #f5f7f9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #dfe5ea; --muted: #9aa6b1; --paper: #15191d; --rule: #333b43; --shade: #1e242a; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.6 system-ui, -apple-system, "Segoe UI",
  "Helvetica Neue", Helvetica, Arial, "Liberation Sans", sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.25; margin: 0 0 1.5rem; font-weight: 650; letter-spacing: -0.01em; }
h2 { font-size: 1.35rem; margin: 2.8rem 0 .8rem; padding-top: 1.2rem; border-top: 1px solid var(--rule);
  font-weight: 620; }
h3 { font-size: 1.1rem; margin: 2rem 0 .6rem; font-weight: 620; }
h4 { font-size: 1rem; margin: 1.5rem 0 .5rem; color: var(--muted); font-weight: 620; }
p { max-width: 46rem; margin: 0 0 1rem; }
pre { background: var(--shade); border: 1px solid var(--rule); border-radius: 6px; padding: .8rem 1rem;
  overflow-x: auto; max-width: 100%;
  font: .85rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0 1.2rem; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption, figcaption { text-align: left; color: var(--muted); font-size: .9rem; max-width: 46rem; }
caption { padding-bottom: .4rem; }
th, td { padding: .35rem 1.1rem .35rem 0; border-bottom: 1px solid var(--rule); text-align: left; vertical-align: top; }
th { font-weight: 600; border-bottom: 1.5px solid var(--muted); white-space: nowrap; }
th.number, td.number { text-align: right; }
figure { margin: 1.2rem 0 1.8rem; }
.plot { background: #fff; border-radius: 6px; overflow: hidden; }
figcaption { margin-top: .5rem; }
details { margin: 1rem 0; border: 1px solid var(--rule); border-radius: 6px; padding: .5rem 1rem; }
summary { cursor: pointer; color: var(--muted); }
details[open] summary { margin-bottom: .6rem; }
@media print { main { max-width: none; padding: 0; } figure, tr { break-inside: avoid; } }
""")

# nothing may be fetched; plotly.js makes functions and images of its own
_POLICY = Markup(
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:"
)

_PAGE = _ENVIRONMENT.from_string(
    """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<title>{{ title }}</title>
<style>
{{ style }}</style>
{% if plotly %}
<script>{{ plotly }}</script>
<script>document.addEventListener("toggle", () => window.dispatchEvent(new Event("resize")), true);</script>
{% endif %}
</head>
<body>
<main>
<h1>{{ title }}</h1>
{% for block in blocks %}
{{ block }}
{% endfor %}
</main>
</body>
</html>
""",
    globals={"policy": _POLICY, "style": _STYLE},
)
