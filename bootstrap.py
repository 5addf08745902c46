"""Set mechkit up in an environment of its own, then use it. Needs Python 3.11 or later, and nothing else.

    python3 bootstrap.py study [arguments of circuits/ioi.py]     the indirect-object study, to a page and a picture
    python3 bootstrap.py test [arguments of pytest]               the tests: quick ones first, the real model last

The environment is `.venv` beside this file; the second time it is there already. Exit codes: 0 all went well,
2 wrong usage or wrong Python, 3 the set-up failed, 130 interrupted; otherwise the code of the study or of pytest.
"""

from __future__ import annotations  # so that an old Python gets as far as the line that says so

import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
EXTRAS = {"study": "gguf,png", "test": "dev"}
OLDEST_PYTHON = (3, 11)
NO_TESTS_CHOSEN = 5

WRONG_USAGE, SETUP_FAILED, INTERRUPTED = 2, 3, 130


class SetupError(Exception):
    """The environment cannot be made; the message says what to do."""


def main(arguments: list[str]) -> int:
    """Run one command; the exit code."""
    if sys.version_info < OLDEST_PYTHON:
        found, wanted = (".".join(map(str, version)) for version in (sys.version_info[:3], OLDEST_PYTHON))
        say(f"needs Python {wanted} or later, and this is {found}; run bootstrap.py with a newer python3")
        return WRONG_USAGE
    if not arguments or arguments[0] not in EXTRAS:
        asked = arguments in (["-h"], ["--help"])
        print(__doc__, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else WRONG_USAGE
    command, rest = arguments[0], arguments[1:]
    try:
        set_up(command)
        return study(rest) if command == "study" else test(rest)
    except SetupError as error:
        say(str(error))
        return SETUP_FAILED
    except KeyboardInterrupt:
        say("interrupted; the same command goes on where it stopped")
        return INTERRUPTED


def set_up(command: str) -> None:
    """Make the environment and install mechkit into it, unless that was done for these very requirements."""
    wanted = fingerprint()
    # what the tests need includes what the study needs
    stamps = [stamp_of(name) for name in ("test", command)]
    if PYTHON.exists() and any(stamp.is_file() and stamp.read_text() == wanted for stamp in stamps):
        return
    if not PYTHON.exists() or run([PYTHON, "-m", "pip", "--version"], quiet=True):
        make_environment()
    say(f"installing mechkit and what it needs into {ENVIRONMENT.name} (once; a few minutes)")
    install: list[str | Path] = [PYTHON, "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    install += ["--constraint", ROOT / "constraints.txt", *requirements(), "--editable", f"{ROOT}[{EXTRAS[command]}]"]
    if run(install):
        raise SetupError("pip could not install the requirements (see above); check network and disk, and try again")
    stamp_of(command).write_text(wanted)


def make_environment() -> None:
    """A fresh virtual environment with pip."""
    if importlib.util.find_spec("ensurepip") is None:
        version = ".".join(map(str, sys.version_info[:2]))
        raise SetupError(
            "this Python lacks ensurepip, which makes virtual environments; install it "
            f"(Debian, Ubuntu: sudo apt install python{version}-venv) and try again"
        )
    say(f"making the environment {ENVIRONMENT}")
    if run([sys.executable, "-m", "venv", "--clear", ENVIRONMENT]):
        raise SetupError(f"python -m venv failed (see above); is {ROOT} writable?")


def requirements() -> list[str]:
    """The pinned requirements; on pip's command line as well, so that they are settled first."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def fingerprint() -> str:
    """What the environment depends on, as a hash."""
    files = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
    return hashlib.sha256(b"\0".join([*files, sys.version.encode(), str(ROOT).encode()])).hexdigest()


def stamp_of(command: str) -> Path:
    """The file that records for which fingerprint a command's requirements were installed."""
    return ENVIRONMENT / f"mechkit-{command}.stamp"


def study(arguments: list[str]) -> int:
    """The indirect-object study, in the caller's folder."""
    return run([PYTHON, ROOT / "circuits" / "ioi.py", *arguments])


def test(arguments: list[str]) -> int:
    """The quick tests, then those with the real model; the first failure counts."""
    codes = [run([PYTHON, "-m", "pytest", "-m", kind, *arguments], where=ROOT) for kind in ("not real", "real")]
    return next((code for code in codes if code not in (0, NO_TESTS_CHOSEN)), 0)


def run(command: list[str | Path], *, where: Path | None = None, quiet: bool = False) -> int:
    """Run a program without standard input; its exit code."""
    output = subprocess.DEVNULL if quiet else None
    return subprocess.run(
        [str(part) for part in command], cwd=where, stdin=subprocess.DEVNULL, stdout=output, stderr=output
    ).returncode


def say(text: str) -> None:
    """One line to the user."""
    print(f"mechkit: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
