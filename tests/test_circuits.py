"""The circuit scripts, from their arguments to their pages, on small random models that do not show the behaviour."""

import functools
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import task_tokenizers
from test_pages import Outline

import mechkit as mk
from mechkit.training import SmallIOISettings, TrainingSettings, small_ioi

ROOT = Path(__file__).resolve().parents[1]
CIRCUITS = ROOT / "circuits"
SECTIONS = {
    "ioi": ("residual stream", "at the last token", "at the second mention", "Attention and MLP layers"),
    "greater_than": ("residual stream", "Which heads bring it to the last token", "Attention and MLP layers"),
    "induction": ("residual stream", "Induction heads", "What the successor offers as a key"),
}
FIGURES = {"ioi": 5, "greater_than": 3, "induction": 4}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_decoders, word_tokenizer) -> dict[str, Path]:
    """For each script a saved random decoder, with a tokenizer that can write the script's prompts."""
    years = task_tokenizers.make("digits")
    folders = {}
    for name, tokenizer in (("ioi", word_tokenizer), ("greater_than", years), ("induction", years)):
        folders[name] = tmp_path_factory.mktemp(name)
        tiny_decoders["mlp"].save(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders


@pytest.fixture(autouse=True)
def no_chrome(monkeypatch, tmp_path) -> None:
    """Pictures take seconds each and are tested elsewhere; here a script says that it cannot draw them."""
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "no-browser"))


def run_script(monkeypatch, name: str, *arguments: object) -> int | None:
    """Run a script in this process, as `python circuits/NAME.py ARGUMENTS`; its exit code."""
    monkeypatch.syspath_prepend(CIRCUITS)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(CIRCUITS / f"{name}.py"), run_name="__main__")
    return left.value.code


@pytest.mark.filterwarnings("ignore::mechkit.errors.BehaviourWarning")
@pytest.mark.parametrize("name", SECTIONS)
def test_a_script_writes_its_page(name, folders, tmp_path, monkeypatch, capsys):
    out = tmp_path / "new" / name
    assert run_script(monkeypatch, name, "--model", folders[name], "--n", 8, "--out", out, "--seed", 3) == 0
    page = Outline((out / "index.html").read_text("utf-8"))
    assert not [link for link in page.links if not link.startswith(("data:", "#"))]
    for wanted in (
        *SECTIONS[name],
        folders[name].name,
        "The behaviour: ",
        "n = 8",
        "What these numbers were made with",
        "seed: 3",
    ):
        assert wanted in page.text, wanted
    assert (out / "index.html").read_text("utf-8").count('class="plotly-graph-div"') == FIGURES[name]
    said = capsys.readouterr().err
    assert f"wrote {out / 'index.html'}" in said and said.count("no PNG: ") == 1
    assert [path.name for path in out.iterdir()] == ["index.html"]


def test_a_script_runs_as_a_program(folders, tmp_path):
    command = [sys.executable, CIRCUITS / "ioi.py", "--model", folders["ioi"], "--n", "8", "--out", tmp_path / "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "" and "Traceback" not in done.stderr
    assert "mechkit: ioi.baseline: clean − corrupted of logit_difference" in done.stderr
    assert (tmp_path / "out" / "index.html").is_file()


@pytest.mark.parametrize("name", SECTIONS)
def test_help_says_what_the_study_asks_and_takes(name, monkeypatch, capsys):
    assert run_script(monkeypatch, name, "--help") == 0
    said = capsys.readouterr().out
    for wanted in (
        "--model",
        "--out",
        "--n ",
        "--seed",
        "smollm2-135m-instruct",
        f"python circuits/{name}.py",
        "arXiv",
    ):
        assert wanted in said


@pytest.mark.parametrize("name", SECTIONS)
def test_an_unknown_model_is_one_line(name, tmp_path, monkeypatch, capsys):
    assert run_script(monkeypatch, name, "--model", "smolm2-135m", "--out", tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert said.startswith("mechkit: 'smolm2-135m': no zoo name") and said.count("\n") == 1
    assert "the nearest known are smollm2-135m" in said and not (tmp_path / "out").exists()


def test_wrong_usage_is_code_2(monkeypatch, capsys):
    assert run_script(monkeypatch, "ioi", "--n", "many") == 2
    assert "invalid int value: 'many'" in capsys.readouterr().err


@pytest.mark.parametrize("name", SECTIONS)
def test_a_tokenizer_that_cannot_write_the_prompts_is_one_line(name, tmp_path, tiny_decoders, monkeypatch, capsys):
    tiny_decoders["mlp"].save(tmp_path / "model")
    mk.training.word_tokenizer(["a few words"]).save_pretrained(tmp_path / "model")
    assert run_script(monkeypatch, name, "--model", tmp_path / "model", "--out", tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert said.startswith(f"mechkit: {name}: ") and said.count("\n") == 1


@pytest.mark.filterwarnings("ignore::mechkit.errors.BehaviourWarning")
def test_without_a_network_the_study_trains_its_own_model_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MECHKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    # trained for two steps only: what is tested is the way to it
    settings = SmallIOISettings(prompts=50, training=TrainingSettings(steps=2))
    monkeypatch.setattr("mechkit.training.indirect_object.ENOUGH", 0.0)
    monkeypatch.setattr("mechkit.training.small_ioi", functools.partial(small_ioi, settings=settings))
    assert run_script(monkeypatch, "ioi", "--n", 8, "--out", tmp_path / "out") == 0
    assert "going on with a small model that mechkit trains itself" in capsys.readouterr().err
    page = Outline((tmp_path / "out" / "index.html").read_text("utf-8"))
    assert "smollm2-135m-instruct could not be fetched, so this is HookedModel('small-ioi'" in page.text
