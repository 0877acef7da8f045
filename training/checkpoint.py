"""Checkpoints. Each is written under a temporary name and renamed, so that a directory named `step-…` is complete."""

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

CHECKPOINTS = "checkpoints"
"""The subdirectory with the checkpoints of a model in training."""
STATE = "state.json"
KEPT = 2
"""The number of checkpoints to keep: the newest, and the one before in case the disk loses a part of the newest."""


def checkpoint_path(directory: Path, step: int) -> Path:
    """Return the path of the checkpoint after `step` steps."""
    return directory / f"step-{step:08d}"


def unfinished_path(checkpoint: Path) -> Path:
    """Return the path at which a checkpoint is written."""
    return checkpoint.with_name(f".{checkpoint.name}.writing")


def begin_checkpoint(checkpoint: Path) -> None:
    """Create the directory `unfinished_path(checkpoint)`. Removes what is left of interrupted ones."""
    for leftover in checkpoint.parent.glob(".step-*.writing"):
        shutil.rmtree(leftover)
    unfinished_path(checkpoint).mkdir(parents=True)


def finish_checkpoint(checkpoint: Path, state: dict[str, Any]) -> None:
    """Add `state` to a checkpoint whose other files are written, flush it to the disk, and rename it to `checkpoint`.

    Removes all but the newest `KEPT` checkpoints; the link `last` points to the newest.
    """
    unfinished, directory = unfinished_path(checkpoint), checkpoint.parent
    files = {path.name: path.stat().st_size for path in unfinished.iterdir()}
    (unfinished / STATE).write_text(json.dumps({"files": files, "state": state}), encoding="utf-8")
    for path in (*unfinished.iterdir(), unfinished):
        _flush(path)
    shutil.rmtree(checkpoint, ignore_errors=True)  # an incomplete one
    unfinished.rename(checkpoint)
    _flush(directory)
    _link(directory / "last", checkpoint.name)
    for old in sorted(directory.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old)


def newest_checkpoint(directory: Path) -> Path | None:
    """Return the newest complete checkpoint, if any; warn of each incomplete one that is skipped."""
    for unfinished in directory.glob(".step-*.writing"):
        warnings.warn(f"checkpoint {unfinished} was not fully written and is skipped", stacklevel=2)
    for path in sorted(directory.glob("step-*"), reverse=True):
        if is_complete(path):
            return path
        warnings.warn(f"checkpoint {path} is not complete and is skipped", stacklevel=2)
    return None


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Return the `state` that was passed to `finish_checkpoint`."""
    state: dict[str, Any] = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["state"]
    return state


def is_complete(checkpoint: Path) -> bool:
    """Whether all files of a checkpoint are there, in full."""
    try:
        files = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["files"]
        return all((checkpoint / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError):
        return False


def _flush(path: Path) -> None:
    """Flush a file or directory to the disk: the rename that follows promises that its content is there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(link: Path, target: str) -> None:
    temporary = link.with_name(f".{link.name}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.rename(link)  # replaces the link atomically
