"""`load`: a HookedModel from a zoo name, a folder, a GGUF file, a hub id, or a module in memory.

1. Turn the source into a folder on this disk (`zoo`, `hub` and `gguf` do that).
2. Look at config.json and at every weight file before anything is built, so that errors name the file.
3. Build the model, and refuse weights that do not fit the configuration exactly.
4. Take the tokenizer from beside the weights, and record where everything came from.
"""

import difflib
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import BrokenFileError, LoadError, MissingTokenizerError, UnknownModelError, UnsupportedArchitectureError
from .decoder import MODEL_TYPE, Decoder
from .families import HUGGING_FACE_FAMILIES
from .files import TOKENIZER_FILES, Found, check_weights, read_facts, read_json, sha256_of, weight_files
from .gguf import convert_gguf
from .hooked import HookedModel
from .hub import HUB_ID, hub_folder
from .pretrained import read_pretrained
from .zoo import ZOO, zoo_folder

BACKENDS = ("hooks",)


class Where(Enum):
    """Where `load` looks for a tokenizer when none is given."""

    BESIDE_WEIGHTS = "beside the weights"


def load(
    source: str | Path | nn.Module,
    *,
    tokenizer: Any = Where.BESIDE_WEIGHTS,
    backend: str = "hooks",
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    file: str | None = None,
) -> HookedModel:
    """Load a model, ready to be read and edited.

    `source`: a zoo name (`known_models()`), a folder in Hugging Face's format or written by `Decoder.save`, a .gguf
    file, a hub id "org/name", or a module in memory, which is neither copied nor changed. A zoo name wins over a
    folder of the same name; write "./name" for the folder. `tokenizer`: a tokenizer, a folder or hub id of one, or
    None; by default the one beside the weights, if there is one. `device`: CUDA where there is one, else the CPU.
    `dtype`: float32 (the hub's bfloat16 moves SmolLM2's logits by up to 5). `revision`: branch, tag or commit on the
    hub. `file`: a GGUF file inside the folder or hub model.

    Errors, all LoadErrors: UnknownModelError, NetworkError, BrokenFileError (missing, truncated, or not fitting the
    configuration), UnsafeFileError, UnsupportedArchitectureError, MissingTokenizerError where the one asked for does
    not exist.
    """
    if backend not in BACKENDS:
        raise LoadError(f"backend {backend!r}: expected one of {', '.join(BACKENDS)}; leave backend= out")
    if isinstance(source, nn.Module):
        unused = {"device": device, "dtype": dtype, "revision": revision, "file": file}
        return _wrap(source, tokenizer, [name for name, value in unused.items() if value is not None])
    target, wanted = _device(device), _dtype(dtype)
    name, found = _find(source, revision, file)
    module, weights = _build(found.folder, target, wanted)
    facts = {"source": str(found.folder), "quantisation": "none"} | found.facts
    facts |= {"architecture": type(module).__name__, "dtype": str(wanted).removeprefix("torch.")}
    if "weights_sha256" not in facts:
        facts["weights_sha256"] = sha256_of(*weights)
    return HookedModel(module, _tokenizer(tokenizer, found.folder), name=name, provenance=facts)


def _wrap(module: nn.Module, tokenizer: Any, unused: list[str]) -> HookedModel:
    """A module in memory, as it is."""
    if unused:
        raise LoadError(
            f"{type(module).__name__} in memory: {', '.join(unused)} cannot be given: the module is used as it is; "
            "change the module first, such as module.to(device, dtype)"
        )
    chosen = None if tokenizer is Where.BESIDE_WEIGHTS else _tokenizer(tokenizer, None)
    facts = {"source": "memory", "architecture": type(module).__name__, "quantisation": "none"}
    parameter = next(module.parameters(), None)
    if parameter is not None:
        facts["dtype"] = str(parameter.dtype).removeprefix("torch.")
    name = getattr(getattr(module, "config", None), "name_or_path", None) or type(module).__name__
    return HookedModel(module, chosen, name=str(name), provenance=facts)


def _find(source: str | Path, revision: str | None, file: str | None) -> tuple[str, Found]:
    """The model's name, and the folder on this disk that holds it."""
    text = str(source)
    if not text.strip():
        raise UnknownModelError("the source is empty; give a zoo name (known_models()), a folder, a file or a hub id")
    if isinstance(source, str) and source in ZOO and file is None:
        return source, zoo_folder(source, revision)
    path = Path(source).expanduser()
    if path.exists():
        if revision is not None:
            raise LoadError(f"{path}: revision {revision!r} was given, but a local model has none; leave it out")
        return _find_local(path, file)
    if isinstance(source, str) and HUB_ID.fullmatch(source) and not source.startswith((".", "~")):
        if file is None:
            return source, hub_folder(source, revision)
        found = hub_folder(source, revision, file)
        converted = convert_gguf(found.folder / file)
        return f"{source}/{file}", Found(converted.folder, converted.facts | found.facts)
    known = [*ZOO, *(entry.hub_id for entry in ZOO.values())]
    near = difflib.get_close_matches(text.lower(), known, n=3, cutoff=0.5)
    nearest = f"the nearest known are {', '.join(near)}" if near else f"known are {', '.join(ZOO)}"
    raise UnknownModelError(
        f"{text!r}: no zoo name, no folder or file at {path.absolute()}, and no hub id of the form org/name; {nearest}"
    )


def _find_local(path: Path, file: str | None) -> tuple[str, Found]:
    if file is not None:
        path = path / file
        if not path.is_file():
            raise BrokenFileError(f"{path}: no such file; name a GGUF file inside the folder")
    if path.is_dir():
        facts = {"source": str(path)} | read_facts(path)
        return facts.pop("name", path.resolve().name), Found(path, facts)
    if path.suffix.lower() != ".gguf":
        raise UnknownModelError(
            f"{path}: expected a model folder or a .gguf file, got a {path.suffix or 'plain'} file; "
            "give the folder that holds config.json and the weights"
        )
    converted = convert_gguf(path)
    return path.stem, Found(converted.folder, {"source": str(path)} | converted.facts)


def _build(folder: Path, device: torch.device, dtype: torch.dtype) -> tuple[nn.Module, list[Path]]:
    """The model of a folder, in evaluation mode, and the files its weights came from."""
    kind = read_json(folder / "config.json").get("model_type")
    if kind != MODEL_TYPE and kind not in HUGGING_FACE_FAMILIES:
        raise UnsupportedArchitectureError(
            f"{folder / 'config.json'}: no adapter for model_type {kind!r}; known are "
            f"{', '.join(HUGGING_FACE_FAMILIES)} and mechkit's own {MODEL_TYPE}"
        )
    weights = weight_files(folder)
    check_weights(weights)
    module = Decoder.load(folder) if kind == MODEL_TYPE else read_pretrained(folder, dtype)
    return module.to(device=device, dtype=dtype).eval(), weights


def _tokenizer(choice: Any, folder: Path | None) -> Any:
    """The tokenizer that was asked for, or None."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if choice is Where.BESIDE_WEIGHTS:
        if folder is None or not any((folder / name).is_file() for name in TOKENIZER_FILES):
            return None
        choice = folder
    elif not isinstance(choice, str | Path):
        return choice
    place = Path(choice).expanduser()
    if place.is_dir():
        if not any((place / name).is_file() for name in TOKENIZER_FILES):
            raise MissingTokenizerError(f"{place}: no tokenizer there (looked for {', '.join(TOKENIZER_FILES)})")
        if (place / "tokenizer.json").is_file():
            read_json(place / "tokenizer.json")
    elif not HUB_ID.fullmatch(str(choice)):
        raise MissingTokenizerError(
            f"{choice}: no such folder, and no hub id; give a tokenizer or a folder that holds one"
        )
    reader: Any = PreTrainedTokenizerFast if _is_generic(place) else AutoTokenizer
    try:
        return reader.from_pretrained(place if place.is_dir() else str(choice), trust_remote_code=False)
    except OSError as error:
        raise MissingTokenizerError(f"{choice}: no tokenizer could be had there ({error})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BrokenFileError(
            f"{choice}: the tokenizer files do not fit together ({error}); fetch them again"
        ) from error


def _is_generic(folder: Path) -> bool:
    """Whether tokenizer.json is the whole tokenizer; AutoTokenizer puts another in its place for some architectures."""
    config = folder / "tokenizer_config.json"
    if not config.is_file() or not (folder / "tokenizer.json").is_file():
        return False
    return read_json(config).get("tokenizer_class") in ("PreTrainedTokenizerFast", "TokenizersBackend")


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise LoadError(f"device {device!r}: torch knows no such device; use cpu, cuda or mps") from error
    lacks_cuda = wanted.type == "cuda" and not torch.cuda.is_available()
    if lacks_cuda or (wanted.type == "mps" and not torch.backends.mps.is_available()):
        raise LoadError(f"device {device!r}: this machine, or this build of torch, has none; use device='cpu'")
    return wanted


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    wanted = torch.float32 if dtype is None else getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(wanted, torch.dtype) or not wanted.is_floating_point:
        raise LoadError(f"dtype {dtype!r}: expected a floating-point dtype such as 'float32' or torch.bfloat16")
    return wanted
