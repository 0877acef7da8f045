"""The checksums of a model's files: computed when it is registered, compared when a service starts."""

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bentoml import Model
from bentoml.exceptions import BentoMLException

KEY = "files"
"""The entry of a model's metadata that holds its checksums."""
DESCRIPTION = "model.yaml"
"""BentoML's description of a model, beside the model's files. It holds the checksums, so it is not among them."""
ADVICE = "Train again, or delete it with `bentoml models delete` to serve the version before it; build an image anew."


class DamagedModel(BentoMLException):
    """A model's files are not those that were registered. `bentoml serve` prints the message as one line."""


def checksums(directory: Path) -> dict[str, dict[str, Any]]:
    """Return the SHA-256 (hexadecimal) and the size in bytes of every file below `directory`, by its path relative to it."""
    paths = _files(directory)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashlib releases the interpreter lock
        digests = pool.map(_sha256, paths.values())
        return {name: {"sha256": digest, "bytes": path.stat().st_size} for (name, path), digest in zip(paths.items(), digests, strict=True)}


def verify(model: Model, place: str = "the model store", advice: str = ADVICE) -> bool:
    """Check that a model's directory holds exactly the files that were registered, each unchanged.

    Returns False if the model was registered before there were checksums, and so cannot be checked. Raises `DamagedModel`, which names the
    tag, its place and the file, and says what to do, if a file is missing, changed, truncated, or was added.
    """

    def damaged(fault: str) -> DamagedModel:
        return DamagedModel(f"{model.tag} in {place} is damaged: {fault}. {advice}")

    metadata: Mapping[str, Any] = model.info.metadata
    expected: Mapping[str, Mapping[str, Any]] | None = metadata.get(KEY)
    if expected is None:
        return False
    directory = Path(model.path)
    paths = {name: path for name, path in _files(directory).items() if name != DESCRIPTION}
    for name, entry in expected.items():  # sizes first: no need to read gigabytes to find a truncated file
        if name not in paths:
            raise damaged(f"{name} is missing")
        if (size := paths[name].stat().st_size) != entry["bytes"]:
            raise damaged(f"{name} has {size} bytes instead of {entry['bytes']}")
    if added := sorted(paths.keys() - expected.keys()):
        raise damaged(f"{added[0]} was not registered with it")
    try:
        found = checksums(directory)
    except OSError as error:
        raise damaged(f"{error.filename} cannot be read ({error.strerror})") from error
    for name, entry in expected.items():
        if found[name]["sha256"] != entry["sha256"]:
            raise damaged(f"{name} does not match its checksum")
    return True


def _files(directory: Path) -> dict[str, Path]:
    """Return the files below a directory, by their paths relative to it, with forward slashes."""
    return {path.relative_to(directory).as_posix(): path for path in sorted(directory.rglob("*")) if not path.is_dir()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
