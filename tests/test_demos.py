"""What the documentation and the demos show is run: every Python block of the concepts page, every cell of the demo."""

import re
import runpy
from pathlib import Path

import plotly.graph_objects as go
import pytest

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "demos" / "patching_heatmap.py"
FENCE = re.compile(r"^```(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_snippets_of_the_concepts_page_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "concepts.md"
    text = page.read_text("utf-8")
    blocks = [(match[1], match[2], text.count("\n", 0, match.start(2))) for match in FENCE.finditer(text)]
    assert {kind for kind, _, _ in blocks} == {"python", "python no-run", "bash"}
    names: dict[str, object] = {"__name__": "__main__"}
    for kind, source, line in blocks:
        if kind.startswith("python"):
            code = compile("\n" * line + source, str(page), "exec")  # so that an error names the line of the page
            if kind == "python":
                exec(code, names)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "edits.safetensors",
        "report.html",
        "residual.html",
        "residual.nc",
    ]


def test_the_concepts_page_names_every_site():
    from mechkit.models.sites import GLOBAL_SITES, LAYER_SITES

    text = (ROOT / "docs" / "concepts.md").read_text("utf-8")
    assert not [site for site in GLOBAL_SITES if f"`{site}`" not in text]
    assert not [site for site in LAYER_SITES if f"`{site}.L`" not in text]


def run_demo(monkeypatch, model: str) -> dict[str, object]:
    monkeypatch.setenv("MECHKIT_DEMO_MODEL", model)
    names = runpy.run_path(str(DEMO))
    assert isinstance(names["figure"], go.Figure)
    assert DEMO.read_text("utf-8").rstrip().endswith("\nfigure")
    return names


@pytest.mark.filterwarnings("ignore::mechkit.errors.BehaviourWarning")
def test_every_cell_of_the_demo_runs_on_a_random_model(tmp_path, monkeypatch, tiny_decoders, word_tokenizer):
    tiny_decoders["mlp"].save(tmp_path)
    word_tokenizer.save_pretrained(tmp_path)
    run_demo(monkeypatch, str(tmp_path))


@pytest.mark.real
def test_the_demo_shows_what_it_says_on_the_small_model(monkeypatch):
    names = run_demo(monkeypatch, "small")
    residual, noising = names["residual"].mean_effect(), names["noising"].mean_effect()
    second, end = (names["task"].pairs.positions[place][0].item() for place in ("S2", "END"))
    # the difference enters at S2 and is at END before the last layer
    assert residual.sel(layer=0, position=second).item() == pytest.approx(1, abs=1e-3)
    assert residual.sel(layer=2, position=end).item() > 0.9 and abs(residual.sel(layer=2, position=second).item()) < 0.1
    assert noising.sel(layer=0, position=second).item() == pytest.approx(0, abs=1e-3)
    assert (residual.sel(position=slice(0, second - 1)) == 0).all()


def test_the_demo_is_a_percent_notebook():
    text = DEMO.read_text("utf-8")
    cells = re.split(r"^# %%", text, flags=re.MULTILINE)[1:]
    prose = [cell for cell in cells if cell.startswith(" [markdown]")]
    assert len(prose) >= 10 and len(cells) - len(prose) >= 10
    for cell in prose:
        assert all(line.startswith("#") or not line for line in cell.split("\n")[1:])
