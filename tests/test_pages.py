"""Pages: one file, no network, plotly.js once, everything escaped, the same bytes each time."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mechkit import figures, pages
from mechkit.errors import ResultError

PLOTLY_JS = re.compile(r"plotly\.js v\d")


def blocks() -> list[pages.Block]:
    figure = figures.heatmap(np.array([[1.0, np.nan]]), ["L0"], ["<script>alert(1)</script>", "b"], title="T")
    frame = pd.DataFrame(
        {"layer": [0, 1], "token": ["<b>", " café"], "effect": np.array([0.123456, np.nan], np.float32)}
    )
    return [
        pages.Heading("Patching <i>"),
        pages.Text("First & <b>bold</b>.\n\nSecond."),
        pages.Figure(figure, "A caption with <b>."),
        pages.Table(frame, "Top & cells"),
        pages.Preformatted("a < b\n  c"),
        pages.Details("More <x>", [pages.Text("folded"), pages.Figure(figure)]),
    ]


class Outline(HTMLParser):
    """Tags, links and visible text of a page, with scripts and styles apart."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [str(value) for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data


def test_the_page_is_one_offline_file(tmp_path: Path) -> None:
    path = pages.write_page(tmp_path / "deep" / "report.html", "Title & <tag>", blocks())
    html = path.read_text("utf-8")
    outline = Outline(html)
    assert outline.links == [] and "link" not in outline.tags and "iframe" not in outline.tags
    assert outline.open == []  # every element is closed
    assert "default-src 'none'" in html  # the browser itself is told to fetch nothing
    assert len(PLOTLY_JS.findall(html)) == 1
    assert not re.search(r"@import|url\(\s*['\"]?http", html.split("<script>")[0])
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_all_text_is_escaped_and_there() -> None:
    html = pages.page_html("Title & <tag>", blocks())
    text = Outline(html).text
    for part in ("Title & <tag>", "Patching <i>", "First & <b>bold</b>.", "Top & cells", "a < b\n  c", "More <x>"):
        assert part in text
    assert "A caption with <b>." in text and "<script>alert" not in html
    assert Outline(html).tags.count("h2") == 1 and Outline(html).tags.count("p") == 3


def test_numbers_are_short_and_unmeasured_is_a_dash() -> None:
    html = pages.page_html("T", blocks())
    assert '<td class="number">0.123</td>' in html and '<td class="number">–</td>' in html
    assert '<td class="text"> café</td>' in html
    indexed = pages.page_html("T", [pages.Table(pd.DataFrame({"x": [1.0]}, index=pd.Index(["row"], name="name")))])
    assert ">name</th>" in indexed and ">row</td>" in indexed


def test_without_figures_there_is_no_plotly() -> None:
    html = pages.page_html("T", [pages.Text("words")])
    assert not PLOTLY_JS.search(html) and len(html) < 10_000


def test_figures_follow_the_window_and_leave_the_callers_alone() -> None:
    figure = figures.heatmap(np.ones((2, 2)), ["a", "b"], ["c", "d"])
    width = figure.layout.width
    html = pages.page_html("T", [pages.Figure(figure), pages.Figure(figure)])
    assert f"max-width:{width}px" in html and '"responsive": true' in html
    assert 'id="figure-1"' in html and 'id="figure-2"' in html
    assert figure.layout.width == width and figure.layout.autosize is None
    assert '"autosize":true' in html and f'"width":{width}' not in html


def test_the_same_blocks_give_the_same_page() -> None:
    assert pages.page_html("T", blocks()) == pages.page_html("T", blocks())


def test_bad_blocks_and_paths_are_named(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="level from 2 to 4, got 1"):
        pages.Heading("T", level=1)
    with pytest.raises(ResultError, match=r"ends in \.html, got 'page\.txt'"):
        pages.write_page(tmp_path / "page.txt", "T", [])


def test_a_failed_page_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pages.write_page(tmp_path / "page.html", "old", [pages.Text("old")])
    before = path.read_bytes()

    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pages.write_page(path, "new", [pages.Text("new")])
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
