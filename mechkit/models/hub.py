"""Model folders from the Hugging Face hub, by id and revision."""

import re
from pathlib import Path

from ..errors import LoadError, NetworkError, UnknownModelError
from .files import Found

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
SMALL_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]
# sub-folders hold other formats (onnx, original, ...), and "consolidated" files the same weights a second time
IGNORED = ["*/*", "consolidated*"]
PROBE_SECONDS = 5.0


def hub_folder(name: str, revision: str | None = None, file: str | None = None) -> Found:
    """Fetch a hub model into Hugging Face's own cache, or find it there when offline.

    `file` fetches that one file (a GGUF) alone, and the folder is the one that holds it. Errors: UnknownModelError for
    an id or revision that does not exist, NetworkError where the hub does not answer, LoadError where it refuses.
    """
    from huggingface_hub import HfApi, errors

    place = name if revision is None else f"{name}@{revision}"
    # the transport's own base error, whichever library a version of the hub's client is built on
    lost = (errors.HTTPError, errors.OfflineModeIsEnabled, OSError, getattr(errors, "XetDownloadError", OSError))
    problem: LoadError | None = None
    try:  # downloads alone have no time-out on connecting
        HfApi().model_info(name, revision=revision, timeout=PROBE_SECONDS)
    except errors.HFValidationError as error:
        raise UnknownModelError(f"{name!r} is not a hub id: {error}") from None
    except errors.HfHubHTTPError as error:
        problem = _refused(place, error)
    except lost as error:
        problem = _unreachable(place, error)
    try:
        return _fetch(name, revision, file, place, local_files_only=problem is not None)
    except errors.HfHubHTTPError as error:
        raise _refused(place, error) from None
    except lost as error:
        raise problem or _unreachable(place, error) from None


def _fetch(name: str, revision: str | None, file: str | None, place: str, *, local_files_only: bool) -> Found:
    from huggingface_hub import hf_hub_download, snapshot_download

    if file is not None:
        path = Path(hf_hub_download(name, file, revision=revision, local_files_only=local_files_only))
        return Found(path.parent, {"source": f"hub: {place}/{file}", "revision": path.parent.name})
    for weights in ("*.safetensors", "pytorch_model*.bin"):
        folder = Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=[*SMALL_FILES, weights],
                ignore_patterns=IGNORED,
                local_files_only=local_files_only,
            )
        )
        if any(folder.glob(weights)):
            break
    return Found(folder, {"source": f"hub: {place}", "revision": folder.name})


def _unreachable(place: str, error: Exception) -> NetworkError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return NetworkError(
        f"{place}: not in the local hub cache, and the hub could not be reached ({reason}); connect (and unset "
        "HF_HUB_OFFLINE), or give a local folder or GGUF file"
    )


def _refused(place: str, error: Exception) -> LoadError:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    reason = str(error).strip().splitlines()[-1] if str(error) else type(error).__name__
    if isinstance(error, GatedRepoError):
        return LoadError(f"{place}: the hub asks you to accept this model's terms first ({reason}); do so and log in")
    if isinstance(error, RevisionNotFoundError):
        return UnknownModelError(f"{place}: the hub has no such revision; give a branch, tag or commit of the model")
    if isinstance(error, RepositoryNotFoundError):
        return UnknownModelError(f"{place}: the hub has no such model, or it is private; check the id or log in")
    if isinstance(error, EntryNotFoundError):
        return UnknownModelError(f"{place}: the hub's model has no such file ({reason})")
    return _unreachable(place, error)
