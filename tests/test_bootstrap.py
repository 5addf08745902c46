"""bootstrap.py, run as a newcomer runs it, in a folder of its own and without a network."""

import importlib.util
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def load_bootstrap(path):
    spec = importlib.util.spec_from_file_location("bootstrap_under_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path):
    """The files that bootstrap.py needs, and a study that tells what it was given."""
    for name in ("bootstrap.py", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "circuits").mkdir()
    (tmp_path / "circuits" / "ioi.py").write_text(
        "import os, sys; print(sys.argv[1:], repr(sys.stdin.read()), os.getcwd(), sys.prefix); sys.exit(7)"
    )
    return tmp_path


def run(checkout, *arguments, where=None):
    offline = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    return subprocess.run(
        [sys.executable, checkout / "bootstrap.py", *arguments],
        env=offline | {"PIP_NO_INDEX": "1"},
        cwd=where,
        capture_output=True,
        text=True,
        input="nobody reads this",
    )


def test_it_needs_the_standard_library_only_and_runs_what_was_set_up(checkout, tmp_path_factory):
    environment = checkout / ".venv"
    venv.create(environment, with_pip=False)
    (environment / "mechkit-study.stamp").write_text(load_bootstrap(checkout / "bootstrap.py").fingerprint())
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    done = run(checkout, "study", "--n", "3", where=elsewhere)
    assert done.returncode == 7  # the study's own
    assert done.stdout.strip() == f"['--n', '3'] '' {elsewhere} {environment}"


def test_what_cannot_be_installed_is_said_and_leaves_no_stamp(checkout):
    venv.create(checkout / ".venv", with_pip=False)
    (checkout / ".venv" / "mechkit-study.stamp").write_text("for other requirements")
    done = run(checkout, "study")
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith("mechkit: pip could not install the requirements (see above)")
    assert not list((checkout / ".venv").glob("*.stamp"))  # the environment without pip was made anew


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["stduy"], 2), (["--help"], 0)])
def test_usage(checkout, arguments, code):
    done = run(checkout, *arguments)
    assert done.returncode == code
    assert "python3 bootstrap.py study" in (done.stdout if code == 0 else done.stderr)
    assert not (checkout / ".venv").exists()


def test_an_old_python_gets_one_clear_line(checkout, monkeypatch, capsys):
    bootstrap = load_bootstrap(checkout / "bootstrap.py")
    monkeypatch.setattr(sys, "version_info", (3, 9, 18, "final", 0))
    assert bootstrap.main(["study"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "mechkit: needs Python 3.11 or later, and this is 3.9.18; run bootstrap.py with a newer python3"
    ]


def test_a_python_without_ensurepip_names_the_package(checkout, monkeypatch, capsys):
    bootstrap = load_bootstrap(checkout / "bootstrap.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert bootstrap.main(["test"]) == 3
    version = ".".join(map(str, sys.version_info[:2]))
    assert f"sudo apt install python{version}-venv" in capsys.readouterr().err


def test_torch_is_pinned_on_the_command_line(checkout):
    (requirement,) = load_bootstrap(checkout / "bootstrap.py").requirements()
    assert requirement.startswith("torch==")
