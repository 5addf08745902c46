"""The command line: what it writes, what it says, its exit codes, and that nothing half-written stays behind."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_pages import Outline

import mechkit as mk
from mechkit import cli
from mechkit.results import EffectResult

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_decoders, word_tokenizer) -> Path:
    """A saved random decoder with the tokenizer of the indirect-object sentences."""
    folder = tmp_path_factory.mktemp("model")
    tiny_decoders["mlp"].save(folder)
    word_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, folder) -> Path:
    """Twelve pairs as JSONL. Of the two names the answer is the one that the random model's gap favours."""
    model = mk.load(folder, device="cpu")
    task = mk.tasks.ioi(model, n=12, seed=0, templates=1, order="ABBA")
    sides = (task.pairs.clean, task.pairs.corrupted)
    clean, corrupted = (task.metric(model.last_logits([list(p) for p in side]), task.pairs) for side in sides)
    lines = []
    for i, favoured in enumerate((clean > corrupted).tolist()):
        io, subject = (model.to_str_tokens(tokens[i])[0] for tokens in (task.pairs.answers, task.pairs.foils))
        answer, foil = (io, subject) if favoured else (subject, io)
        texts = {
            name: model.tokenizer.decode(side[i]) for name, side in zip(("clean", "corrupted"), sides, strict=True)
        }
        places = {"S2": int(task.pairs.positions["S2"][i])}
        lines.append(json.dumps({**texts, "answer": answer, "foil": foil, "positions": places}))
    path = tmp_path_factory.mktemp("pairs") / "mine.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def mechkit(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def patch(folder: Path, pairs: Path, *more: object) -> int:
    return mechkit("patch", "--model", folder, "--pairs", pairs, "--quiet", *more)


def usage_error(capsys, *arguments: object) -> str:
    """What argparse says when it refuses; it leaves by SystemExit with code 2."""
    with pytest.raises(SystemExit) as left:
        mechkit(*arguments)
    assert left.value.code == 2
    return capsys.readouterr().err


# -- patch --------------------------------------------------------------------------------------------------------


def test_patch_writes_a_page_that_needs_nothing_else(folder, pairs, tmp_path, capsys):
    out = tmp_path / "deep" / "heat.html"
    assert patch(folder, pairs, "--out", out) == 0
    html = out.read_text("utf-8")
    outline = Outline(html)
    assert not [link for link in outline.links if not link.startswith(("data:", "#"))]
    assert html.count('class="plotly-graph-div"') == 1 and "plotly.js v" in html
    for wanted in ("mine", folder.name, "logit_difference", "The largest effects", "The first prompts", "Provenance"):
        assert wanted in outline.text
    said = capsys.readouterr()
    assert "logit_difference: clean" in said.out and "effect" in said.out and f"wrote {out}" in said.out
    assert said.err == ""
    assert [path.name for path in out.parent.iterdir()] == ["heat.html"]


def test_patch_saves_the_numbers_of_mk_patch(folder, pairs, tmp_path):
    out, saved = tmp_path / "heat.html", tmp_path / "heat.nc"
    options = ("--sites", "z", "--over", "layer", "head", "--positions", "S2", -1, "--direction", "noising")
    assert patch(folder, pairs, "--out", out, "--save", saved, *options) == 0
    loaded = EffectResult.load(saved)
    model = mk.load(folder, device="cpu")
    task = mk.tasks.from_jsonl(pairs, model)
    wanted = mk.patch(model, task, "z", ("layer", "head"), positions=["S2", -1], direction="noising", progress=False)
    assert loaded.data.equals(wanted.data) and loaded.attrs == wanted.attrs
    assert loaded.raw.dims == ("layer", "head", "example") and np.isfinite(loaded.effect).all()


def test_positions_default_to_the_named_ones_where_they_are_swept(folder, pairs, tmp_path):
    saved = tmp_path / "heat.nc"
    for options, dims, position in (
        ((), {"layer": 3, "position": 2}, ["S2", "END"]),
        (("--positions", "all"), {"layer": 3, "position": 14}, list(range(14))),
        (("--over", "layer"), {"layer": 3}, "all"),
    ):
        assert patch(folder, pairs, "--out", tmp_path / "heat.html", "--save", saved, *options) == 0
        result = EffectResult.load(saved)
        assert {dim: result.raw.sizes[dim] for dim in result.cell_dims} == dims
        found = result.data["position"].values.tolist() if "position" in dims else result.attrs["position"]
        assert found == position


@pytest.mark.filterwarnings("ignore::mechkit.errors.BehaviourWarning")
@pytest.mark.parametrize("metric", ["logit_difference", "probability_difference", "kl_divergence"])
def test_patch_draws_a_task_by_name(folder, tmp_path, metric):
    saved = tmp_path / "heat.nc"
    options = ("--n", 6, "--seed", 3, "--metric", metric, "--out", tmp_path / "heat.html", "--save", saved)
    assert mechkit("patch", "--model", folder, "--task", "ioi", "--quiet", *options) == 0
    result = EffectResult.load(saved)
    assert result.attrs["seed"] == 3 and result.attrs["task"] == "ioi" and result.attrs["metric"] == metric
    assert result.data["position"].values.tolist() == ["IO", "S1", "S1+1", "S2", "END"]


@pytest.mark.filterwarnings("ignore::mechkit.errors.BehaviourWarning")
def test_all_positions_are_all_of_them_where_prompts_differ_in_length(folder, tmp_path):
    saved = tmp_path / "heat.nc"
    options = ("--n", 8, "--positions", "all", "--out", tmp_path / "heat.html", "--save", saved)
    assert mechkit("patch", "--model", folder, "--quiet", *options) == 0
    result = EffectResult.load(saved)
    assert result.data["position"].values.tolist() == list(range(result.raw.sizes["position"]))
    assert np.isnan(result.raw).any()  # some prompts are shorter than others


@pytest.mark.filterwarnings("ignore::mechkit.errors.BehaviourWarning")
def test_patch_reads_a_table(folder, tmp_path, capsys):
    table = tmp_path / "mine.csv"
    table.write_text(
        "clean,corrupted,answer,foil\n"
        "When Mary and John left John gave,When Mary and John left Mary gave, Mary, John\n"
        "When Paul and Anna left Anna gave,When Paul and Anna left Paul gave, Paul, Anna\n"
    )
    assert patch(folder, table, "--positions", "all", "--out", tmp_path / "heat.html") == 0
    assert "n = 2" in capsys.readouterr().out


def test_patch_draws_a_picture(folder, pairs, tmp_path):
    pytest.importorskip("kaleido", reason="kaleido is not installed")
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))):
        pytest.skip("no Chrome or Chromium on this machine")
    picture = tmp_path / "heat.png"
    assert patch(folder, pairs, "--out", tmp_path / "heat.html", "--png", picture) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_without_chrome_the_page_is_there_and_one_line_says_so(folder, pairs, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "no-browser"))
    assert patch(folder, pairs, "--out", tmp_path / "heat.html", "--png", tmp_path / "heat.png") == 1
    said = capsys.readouterr().err
    assert said.startswith("mechkit: Writing PNG") and said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["heat.html"]


# -- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("--sites", "resid_per"), "unknown site 'resid_per': did you mean resid_pre"),
        (("--sites", "z.5.3", "--over", "position"), "the model has layers 0 to 2"),
        (("--positions", "S9"), "no position is called 'S9'; this task names S2, END"),
        (("--positions", 40), "position 40 lies outside every prompt; they have up to 14 tokens"),
        (("--over", "lair"), "choose among site, layer, head, position"),
        (("--over", "position"), "Put 'layer' into over, or name it, as in sites='resid_pre.5'"),
        (("--metric", "logits"), "no metric named 'logits'"),
    ],
)
def test_what_does_not_fit_is_one_line_with_the_fix(folder, pairs, tmp_path, capsys, options, wanted):
    out = tmp_path / "heat.html"
    assert patch(folder, pairs, "--out", out, *options) == 1
    said = capsys.readouterr().err
    assert said.startswith("mechkit: ") and said.count("\n") == 1
    assert wanted in said and not out.exists()


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("patch", "--model", "smolm2-135m"), "the nearest known are smollm2-135m"),
        (("patch", "--model", "{folder}", "--task", "iou"), "did you mean 'ioi'? Known: ioi, greater_than, induction"),
        (("patch", "--model", "{folder}", "--pairs", "none.jsonl"), "give the path of an existing UTF-8 file"),
        (("patch", "--model", "{folder}", "--n", "0"), "expected a whole number of at least 1, got 0"),
        (("tasks", "iou"), "did you mean 'ioi'?"),
        (("tasks", "greater_than", "--model", "{folder}"), "greater_than"),
    ],
)
def test_unknown_names_are_one_line_with_the_known_ones(folder, tmp_path, capsys, monkeypatch, arguments, wanted):
    monkeypatch.chdir(tmp_path)
    assert mechkit(*(argument.format(folder=folder) for argument in arguments)) == 1
    said = capsys.readouterr().err
    assert said.startswith("mechkit: ") and said.count("\n") == 1 and wanted in said
    assert not any(tmp_path.iterdir())


def test_wrong_usage_is_code_2_before_anything_is_loaded(capsys):
    assert mechkit() == 2
    assert "COMMAND" in capsys.readouterr().out
    assert "invalid choice: 'pach'" in usage_error(capsys, "pach")
    assert "not allowed with" in usage_error(capsys, "patch", "--task", "induction", "--pairs", "mine.jsonl")
    assert "ends in .html, got 'page.txt'" in usage_error(capsys, "patch", "--out", "page.txt")
    assert "ends in .nc, got 'numbers.csv'" in usage_error(capsys, "patch", "--save", "numbers.csv")
    assert ".png or .svg or .pdf, got 'p.gif'" in usage_error(capsys, "patch", "--png", "p.gif")
    assert "invalid choice: 'both'" in usage_error(capsys, "patch", "--direction", "both")


def test_a_model_without_the_behaviour_is_one_line_not_an_error(folder, tmp_path):
    page = tmp_path / "heat.html"
    arguments = ["patch", "--model", folder, "--n", "8", "--out", page, "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "mechkit.cli", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and page.is_file()
    assert done.stderr.startswith("mechkit: ioi.baseline: clean − corrupted") and done.stderr.count("\n") == 1
    assert "difference" in done.stdout and "effect " not in done.stdout


# -- nothing half-written -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stopped_by", "code"), [(KeyboardInterrupt(), 130), (OSError("no space left"), 1)])
def test_what_stops_the_sweep_leaves_nothing(folder, pairs, tmp_path, capsys, monkeypatch, stopped_by, code):
    def stop(*_arguments, **_options):
        raise stopped_by

    monkeypatch.setattr("mechkit.causal.sweeping.ReplaySweep.run", stop)
    assert patch(folder, pairs, "--out", tmp_path / "new" / "heat.html", "--save", tmp_path / "heat.nc") == code
    assert list(tmp_path.iterdir()) == []
    assert ("interrupted" if code == 130 else "no space left") in capsys.readouterr().err


@pytest.mark.parametrize(("stopped_by", "code"), [(KeyboardInterrupt(), 130), (OSError("no space left"), 1)])
def test_what_stops_the_writing_leaves_the_old_page(folder, pairs, tmp_path, monkeypatch, stopped_by, code):
    out = tmp_path / "heat.html"
    out.write_text("old")
    write_text = Path.write_text

    def half(path: Path, text: str, *arguments, **options) -> int:
        write_text(path, text[: len(text) // 2], *arguments, **options)
        raise stopped_by

    monkeypatch.setattr(Path, "write_text", half)
    assert patch(folder, pairs, "--out", out) == code
    assert out.read_text() == "old" and list(tmp_path.iterdir()) == [out]


# -- models, tasks, help ------------------------------------------------------------------------------------------


def test_models_lists_names_and_families(capsys):
    assert mechkit("models") == 0
    said = capsys.readouterr().out
    for name, entry in mk.models.known_models().items():
        assert f"{name} " in said and entry.summary in said
    assert all(family in said for family in ("gpt2", "llama", "qwen2", "mistral", "Decoder.save"))
    assert "Entry(" not in said


def test_tasks_lists_explains_and_shows(folder, capsys, recwarn):
    assert mechkit("tasks") == 0
    said = capsys.readouterr().out
    assert all(f"{name} " in said and mk.tasks.describe(name) in said for name in mk.tasks.TASKS)
    assert mechkit("tasks", "ioi") == 0
    said = capsys.readouterr().out
    assert said.startswith("Indirect object identification") and "\n\nThe metric is the logit difference" in said


@pytest.mark.filterwarnings("ignore::mechkit.errors.BehaviourWarning")
def test_tasks_with_a_model_shows_prompts_and_baseline(folder, capsys):
    assert mechkit("tasks", "ioi", "--model", folder, "--n", 4) == 0
    said = capsys.readouterr().out
    assert "clean" in said and " to" in said and "logit_difference: clean" in said and "n = 4" in said


def test_help_teaches(capsys):
    for arguments, wanted in (
        (("--help",), ("patch", "models", "tasks", "COMMAND --help teaches", "import mechkit as mk")),
        (
            ("patch", "--help"),
            ("Denoising", "Noising", "0 is like corrupted and 1 like clean", "--sites z --over layer head", '"clean":'),
        ),
        (("tasks", "--help"), ("with a name, explain it", "zoo name, folder, .gguf file or hub id")),
    ):
        with pytest.raises(SystemExit) as left:
            mechkit(*arguments)
        said = capsys.readouterr().out
        assert left.value.code == 0 and all(text in said for text in wanted)


def test_it_runs_as_a_module_and_costs_no_model_library():
    code = "import sys, mechkit.cli; print(sorted({'torch', 'transformers', 'plotly', 'xarray'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    done = subprocess.run([sys.executable, "-m", "mechkit.cli", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage: mechkit") and done.stderr == ""
