"""A dataset as one netCDF 3 file, exactly as it was: no pickle, nothing that could run code.

netCDF 3 knows neither 64-bit integers, booleans nor attributes of several levels, so the file holds plain arrays and
one JSON manifest (global attribute `mechkit`) that says what they were: kind of result, attributes, and the original
type of each variable. Text is stored with JSON's escapes, which keeps control characters and quotes; integers too wide
for 32 bits are stored as decimal text. Any netCDF reader opens the file.
"""

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ._files import replacing
from .errors import ResultError

MANIFEST, FORMAT, VERSION = "mechkit", "mechkit-result", 1
# what a damaged header raises in scipy's reader and xarray's decoding
DAMAGE = (ValueError, TypeError, LookupError, AttributeError, OSError, OverflowError, MemoryError, AssertionError)
SIGNATURES = {
    b"CDF": "netCDF 3",
    b"\x89HDF": "netCDF 4 or HDF5",
    b"PK": "zip (npz, torch)",
    b"\x80": "pickle",
    b"GGUF": "GGUF",
}


def write_dataset(dataset: xr.Dataset, path: Path, kind: str) -> Path:
    """Write `dataset` at `path` (whole or not at all); `kind` names the class that it belongs to."""
    stored, originals = {}, {}
    for name, variable in dataset.variables.items():
        values = np.asarray(variable.values)
        type_name = "text" if values.dtype == object else values.dtype.str
        shape = dict(zip(variable.dims, values.shape, strict=True))
        originals[str(name)] = {"type": type_name, "shape": shape, "attrs": variable.attrs}
        encoded = _encode(str(name), values)
        if values.size:  # netCDF 3 takes a length of 0 for "unlimited", so what is empty stands in the manifest alone
            stored[name] = xr.Variable(variable.dims, encoded)
    coordinates = [str(name) for name in dataset.coords]
    manifest = {"format": FORMAT, "version": VERSION, "kind": kind, "attrs": dataset.attrs}
    manifest |= {"coordinates": coordinates, "variables": originals}
    labels = {name: stored.pop(name) for name in coordinates if name in stored}
    plain = xr.Dataset(stored, labels, {MANIFEST: json.dumps(manifest)})
    try:
        with replacing(path) as temporary:
            plain.to_netcdf(temporary, engine="scipy", format="NETCDF3_64BIT")
    except (ValueError, TypeError, NotImplementedError, OverflowError) as error:
        raise ResultError(f"{path.name}: this result does not fit a netCDF file: {error}") from error
    return path


def read_dataset(path: Path) -> tuple[xr.Dataset, str]:
    """The dataset at `path` and its kind. Raises `ResultError` for a missing, foreign or damaged file."""
    if not path.is_file():
        raise ResultError(f"{path}: there is no such file; expected one written by Result.save")
    content = path.read_bytes()
    if not content.startswith(b"CDF"):
        found = next((name for mark, name in SIGNATURES.items() if content.startswith(mark)), "unknown")
        raise ResultError(f"{path}: expected a netCDF 3 file written by Result.save, got a file of kind: {found}")
    try:
        with xr.open_dataset(io.BytesIO(content), engine="scipy", decode_times=False) as opened:
            plain = opened.load()
    except DAMAGE as error:
        raise ResultError(f"{path}: the netCDF file is damaged or cut short ({error}); write it again") from error
    manifest = _manifest(plain, path)
    try:
        originals = manifest["variables"]
        filled = {name for name, original in originals.items() if 0 not in original["shape"].values()}
        if set(plain.variables) != filled:
            raise KeyError(*sorted(filled ^ set(map(str, plain.variables))))
        variables = {
            name: xr.Variable(tuple(original["shape"]), _restored(plain, name, original), original["attrs"])
            for name, original in originals.items()
        }
        coordinates = {name: variables.pop(name) for name in manifest["coordinates"]}
        return xr.Dataset(variables, coordinates, manifest["attrs"]), str(manifest["kind"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ResultError(f"{path}: arrays and manifest do not agree ({error!r}); write the file again") from error


def _manifest(plain: xr.Dataset, path: Path) -> dict[str, Any]:
    if MANIFEST not in plain.attrs:
        raise ResultError(f"{path}: a netCDF file, but not one written by Result.save (no attribute {MANIFEST!r})")
    try:
        manifest = json.loads(plain.attrs[MANIFEST])
    except (ValueError, TypeError) as error:
        raise ResultError(f"{path}: the manifest is damaged ({error}); write the file again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ResultError(f"{path}: a netCDF file whose manifest is not of format {FORMAT!r}")
    if manifest.get("version") != VERSION:
        raise ResultError(
            f"{path}: expected format version {VERSION}, got {manifest.get('version')}; read it with a newer mechkit"
        )
    return manifest


def _encode(name: str, values: np.ndarray) -> np.ndarray:
    """`values` in a type that netCDF 3 has."""
    if values.dtype.kind in "OU":
        if not all(isinstance(value, str) for value in values.flat):
            raise ResultError(f"variable {name!r}: expected numbers, truth values or text, got mixed Python objects")
        return np.array([json.dumps(value, ensure_ascii=False)[1:-1] for value in values.flat], dtype=np.str_).reshape(
            values.shape
        )
    if values.dtype.kind == "b":
        return values.astype(np.int8)
    if values.dtype.kind in "iu":
        narrow = values.size == 0 or (values.min() >= -(2**31) and values.max() < 2**31)
        return values.astype(np.int32) if narrow else values.astype(np.str_)
    if values.dtype.kind == "f" and values.dtype.itemsize <= 8:
        return values.astype(np.float64 if values.dtype.itemsize == 8 else np.float32)
    raise ResultError(f"variable {name!r}: expected numbers, truth values or text, got {values.dtype}")


def _restored(plain: xr.Dataset, name: str, original: dict[str, Any]) -> np.ndarray:
    """One variable as it was, in its original type."""
    type_name = original["type"]
    if not re.fullmatch(r"text|[<>|=][biufU]\d+", type_name):
        raise ValueError(f"variable {name!r} of unknown type {type_name!r}")
    if name not in plain.variables:
        return np.empty(tuple(original["shape"].values()), dtype=object if type_name == "text" else type_name)
    values = plain[name].values
    if type_name == "text" or np.dtype(type_name).kind == "U":
        texts = np.empty(values.shape, dtype=object)
        for place, value in np.ndenumerate(values):
            texts[place] = json.loads(f'"{_text(value)}"')
        return texts if type_name == "text" else texts.astype(type_name)
    if values.dtype.kind in "OSU":
        values = np.array([int(_text(value)) for value in values.flat], dtype=object).reshape(values.shape)
    return values.astype(type_name)


def _text(value: object) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
