"""Reading model folders safely, and caching whole folders or nothing.

Weights come from safetensors, or from `torch.load(weights_only=True)`. Every weight file is looked at before a model
is built, so that a truncated or dangerous one is named by its own path.
"""

import hashlib
import json
import os
import pickle
import re
import shutil
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import BrokenFileError, UnsafeFileError

WHOLE_FILES = ("model.safetensors", "pytorch_model.bin")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
FACTS_FILE = "mechkit.json"
"""What is known of a folder that mechkit wrote into its cache: source, quantisation, hash of the weights."""


@dataclass(frozen=True)
class Found:
    """A model folder on this disk, and the facts known of where it came from."""

    folder: Path
    facts: dict[str, str] = field(default_factory=dict)


def cache_folder() -> Path:
    """Where converted and trained models are kept: $MECHKIT_CACHE, $XDG_CACHE_HOME/mechkit, or ~/.cache/mechkit."""
    if chosen := os.environ.get("MECHKIT_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mechkit"


@contextmanager
def filling(target: Path) -> Iterator[Path]:
    """Give an empty folder to write into, and rename it to `target` when all went well.

    After an exception, Ctrl-C included, nothing is left. What a killed process left behind is cleared here.
    """
    import psutil

    target.parent.mkdir(parents=True, exist_ok=True)
    for old in target.parent.glob(f".{target.name}.partial-*"):
        if not psutil.pid_exists(int(old.name.rpartition("-")[2])):
            shutil.rmtree(old, ignore_errors=True)
    partial = target.parent / f".{target.name}.partial-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        try:
            partial.replace(target)
        except OSError:
            if not target.is_dir():  # otherwise another process was first, and its folder is as good
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sha256_of(*paths: Path) -> str:
    """The SHA-256 of one file, or of several files' hashes in the order given."""
    digests = [_sha256(path) for path in paths]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _sha256(path: Path) -> str:
    stored = path.resolve()
    if stored.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", stored.name):
        return stored.name  # the hub's cache calls large files by their SHA-256
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_facts(folder: Path, facts: dict[str, str]) -> None:
    """Record what is known of a cached folder, beside its weights."""
    (folder / FACTS_FILE).write_text(json.dumps(facts, indent=1))


def read_facts(folder: Path) -> dict[str, str]:
    """What `write_facts` recorded, or nothing where it recorded nothing."""
    path = folder / FACTS_FILE
    return read_json(path) if path.is_file() else {}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Errors: BrokenFileError where it is missing or no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        inside = _listing(path.parent)
        raise BrokenFileError(
            f"{path}: expected this file, but the folder holds {inside}; give a model folder"
        ) from None
    except (OSError, ValueError) as error:
        raise BrokenFileError(f"{path}: expected JSON, got something else ({error}); fetch the file again") from error
    if not isinstance(content, dict):
        raise BrokenFileError(f"{path}: expected a JSON object, got {type(content).__name__}; fetch the file again")
    return content


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a folder's weights, safetensors first, shards in order.

    Errors: BrokenFileError where there are none, or where a shard that the index names is missing.
    """
    for name in WHOLE_FILES:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _shards(index)
    raise BrokenFileError(
        f"{folder}: expected weights in {' or '.join(WHOLE_FILES)} (or their shards and index), "
        f"but the folder holds {_listing(folder)}; fetch the weights, or give the GGUF file itself"
    )


def _shards(index: Path) -> list[Path]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise BrokenFileError(f"{index}: expected a weight_map of tensor names to files; fetch the index again")
    shards = [index.parent / name for name in sorted(set(places.values()))]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise BrokenFileError(f"{index}: expected {len(shards)} shards, missing {', '.join(missing)}; fetch them")
    return shards


def check_weights(paths: Sequence[Path]) -> None:
    """Make sure that each file can be read to its end, and without running code from it.

    Errors: BrokenFileError for a truncated or corrupt file, UnsafeFileError for a pickle that holds more than tensors.
    """
    for path in paths:
        if path.suffix == ".safetensors":
            _check_safetensors(path)
        else:
            _check_pickle(path)


def _check_safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt"):  # reads the header and compares it with the file's length
            pass
    except (SafetensorError, OSError) as error:
        raise _broken(path, error) from error


def _check_pickle(path: Path) -> None:
    import torch

    zipped = zipfile.is_zipfile(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of pickle protocols that it then refuses anyway
            torch.load(path, map_location="meta", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        if not zipped and path.read_bytes()[:1] != b"\x80":
            raise _broken(path, error) from error
        reason = next((line.strip() for line in str(error).splitlines() if "GLOBAL" in line), "more than tensors")
        raise UnsafeFileError(
            f"{path}: expected tensors alone, got a pickle that would run code ({reason}); "
            "nothing of it was run; convert it to safetensors where you trust it"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> BrokenFileError:
    size = path.stat().st_size
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return BrokenFileError(f"{path}: truncated or corrupt at {size:,} bytes ({reason}); fetch or save the file again")


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "") if names else "nothing"
