"""The policy bundle: a folder with manifest.json and weights.safetensors, and nothing that can run code.

`weights_sha256` binds the weights to the manifest and `manifest_sha256` binds the manifest to itself, so
that one flipped bit anywhere is refused. The manifest is written in one canonical form and read back byte
for byte: no two files mean the same bundle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from himari_rl.errors import BundleError
from himari_rl.policy.manifest import Manifest, new_manifest, parse_manifest, tensor_dtype, tensor_shapes
from himari_rl.storage import is_file, is_folder, join, read_bytes, write_atomic, write_folder

__all__ = [
    "Manifest",
    "Tensors",
    "amend",
    "check_tensors",
    "checked_manifest",
    "new_manifest",
    "packaged",
    "read_bundle",
    "read_manifest",
    "tensor_shapes",
    "write_bundle",
]

BUNDLE_VERSION = 1
MANIFEST, WEIGHTS = "manifest.json", "weights.safetensors"
_MOST_TEXT = 2**24  # bytes of a manifest, and of what weights have beside their numbers
_AGAIN = "export the policy again or fetch the bundle again"

Tensors = dict[str, NDArray[np.float32]]


def write_bundle(folder: str | Path, manifest: Manifest, tensors: Mapping[str, NDArray[Any]]) -> Manifest:
    """Writes a bundle that appears whole or not at all, replacing an earlier bundle at the same path.

    Args:
        folder: where; its parents are made.
        manifest, tensors: as `packaged` takes them.

    Returns:
        The manifest as written, with digests.

    Raises:
        BundleError: a tensor is missing, unknown, of the wrong shape or not finite.
        StorageError: the folder cannot be written; nothing is left half-written.
    """
    written, files, _ = packaged(manifest, tensors)
    write_folder(folder, files, marker=MANIFEST)
    return written


def packaged(manifest: Manifest, tensors: Mapping[str, NDArray[Any]]) -> tuple[Manifest, dict[str, bytes], Tensors]:
    """The manifest with its digests, the files of the bundle by name, and the tensors as they are in them.

    Args:
        manifest: from `new_manifest`; its digests are computed here.
        tensors: the weights, see `tensor_shapes`; stored as float32, the arrays of an external policy as they are.

    Raises:
        BundleError: a tensor is missing, unknown, of the wrong shape or not finite.
    """
    with np.errstate(over="ignore"):  # what does not fit float32 becomes infinite and is refused below
        arrays = {
            name: np.ascontiguousarray(values, dtype=tensor_dtype(manifest, name))
            for name, values in sorted(tensors.items())
        }
    check_tensors(manifest, arrays, "the weights to write", "fix the exporter")
    weights = save(arrays)
    draft = manifest.model_dump(mode="json") | {"weights_sha256": hashlib.sha256(weights).hexdigest()}
    draft["manifest_sha256"] = _self_hash(draft)
    text = _render(draft)
    return parse_manifest(text, MANIFEST, ""), {MANIFEST: text, WEIGHTS: weights}, arrays


def amend(folder: str | Path, **fields: Any) -> Manifest:
    """Writes fields of the manifest of a bundle anew, with a new digest; an earlier signature does not outlive it.

    Raises:
        BundleError: the bundle is damaged, or a field is unknown or of the wrong type.
        StorageError: it cannot be written; the manifest before stays.
    """
    place = join(folder, MANIFEST)
    draft = read_manifest(folder).model_dump(mode="json") | {"signature": None} | fields
    draft["manifest_sha256"] = _self_hash(draft)
    text = _render(draft)
    manifest = parse_manifest(text, place, "give what the field's type asks for")
    write_atomic(place, text)
    return manifest


def read_bundle(folder: str | Path) -> tuple[Manifest, Tensors]:
    """Reads a bundle and checks all of it: both digests, the schema, names, shapes, finiteness.

    Raises:
        BundleError: it is missing, truncated, altered, or from another version.
        StorageError: a file exists but cannot be read.
    """
    place = join(folder, WEIGHTS)
    manifest = read_manifest(folder)
    wanted = 4 * sum(map(prod, tensor_shapes(manifest).values()))
    weights = read_bytes(place, most=wanted + _MOST_TEXT)
    digest = hashlib.sha256(weights).hexdigest()
    if digest != manifest.weights_sha256:
        expected = f"sha256 {manifest.weights_sha256[:12]}"
        raise BundleError(f"{place} is damaged: sha256 {digest[:12]}", expected, _AGAIN)
    try:
        tensors = load(weights)
    except SafetensorError as error:
        raise BundleError(f"{place} is not a safetensors file: {error}", cure=_AGAIN) from error
    check_tensors(manifest, tensors, place, _AGAIN)
    return manifest, tensors


def read_manifest(folder: str | Path) -> Manifest:
    """Reads and checks the manifest of a bundle whose weights are there too; the weights are not read.

    Raises:
        BundleError: the bundle is missing or the manifest is not as written.
        StorageError: a file exists but cannot be read.
    """
    for name in (MANIFEST, WEIGHTS):
        if not is_file(join(folder, name)):
            found = f"{folder} has no {name}" if is_folder(folder) else f"there is no policy bundle at {folder}"
            inside = join(folder, "bundle")  # of a run's folder
            cure = f"take {inside}" if is_file(join(inside, MANIFEST)) else "himari train base --data ... makes one"
            raise BundleError(found, f"a folder with {MANIFEST} and {WEIGHTS}", cure)
    place = join(folder, MANIFEST)
    return checked_manifest(read_bytes(place, most=_MOST_TEXT), place)


def checked_manifest(text: bytes, where: str) -> Manifest:
    """A manifest from the bytes of its file, refused if a single bit of them is not as written.

    Raises:
        BundleError: it is not JSON, was altered, is of another version, or contradicts itself.
    """
    document = _document(text, where)
    version = document.get("bundle_version")
    if version != BUNDLE_VERSION:
        raise BundleError(f"{where} has bundle_version {version!r}", f"{BUNDLE_VERSION}", "export it with this release")
    if document.get("manifest_sha256") != _self_hash(document) or _render(document) != text:
        raise BundleError(f"{where} was altered: its sha256 does not match", "the file as written", _AGAIN)
    return parse_manifest(text, where, _AGAIN)


def check_tensors(manifest: Manifest, tensors: Mapping[str, NDArray[Any]], where: str, cure: str = _AGAIN) -> None:
    """Refuses weights that are not exactly those the manifest asks for.

    Raises:
        BundleError: a tensor is missing, unknown, of another shape or type, or not finite.
    """
    shapes = tensor_shapes(manifest)
    for kind, names in (("no", shapes.keys() - tensors.keys()), ("an unknown", tensors.keys() - shapes.keys())):
        if names:
            raise BundleError(f"{where}: {kind} tensor {min(names)}", f"{len(shapes)} tensors", cure)
    for name, shape in shapes.items():
        array = tensors[name]
        dtype = tensor_dtype(manifest, name)
        if array.shape != shape or array.dtype != dtype:
            raise BundleError(f"{where}: {name} is {array.dtype} {array.shape}", f"{dtype} {shape}", cure)
        if manifest.external is None and not np.isfinite(array).all():
            raise BundleError(
                f"{where}: {name} holds NaN or infinity", "finite weights", "train again; this run diverged"
            )


def _document(text: bytes, where: str) -> dict[str, Any]:
    try:
        document = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise BundleError(f"{where} is not JSON: {error}", "the file as written", _AGAIN) from error
    if not isinstance(document, dict):
        raise BundleError(f"{where} holds a {type(document).__name__}", "a JSON object", _AGAIN)
    return document


def _self_hash(document: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in document.items() if name != "manifest_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _render(document: Mapping[str, Any]) -> bytes:
    """The one form a manifest has on disk; reading compares bytes with it."""
    return (json.dumps(document, indent=2, ensure_ascii=True) + "\n").encode()


def _no_constant(token: str) -> NoReturn:
    raise ValueError(f"{token} is not JSON")
