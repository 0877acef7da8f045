"""Checkpoints of the fine-tuning. Each is written under a temporary name and renamed, so that a directory named `step-…` is complete."""

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

STATE = "state.json"
KEPT = 2
"""The number of checkpoints to keep: the newest, and the one before in case the disk loses a part of the newest."""


def save_checkpoint(directory: Path, accelerator: Accelerator, step: int, state: dict[str, Any]) -> None:
    """Write the model, the optimizer, every process's random generators and `state` as `directory/step-…`, unless that exists.

    Every process must call this. Removes all but the newest `KEPT` checkpoints; the link `last` points to the newest.
    """
    target = directory / f"step-{step:08d}"
    unfinished = directory / f".{target.name}.writing"
    if broadcast_object_list([_is_complete(target)])[0]:  # the main process looks: others may see another file system
        return
    if accelerator.is_main_process:
        for leftover in directory.glob(".step-*.writing"):
            shutil.rmtree(leftover)
        unfinished.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(unfinished))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        files = {path.name: path.stat().st_size for path in unfinished.iterdir()}
        (unfinished / STATE).write_text(json.dumps({"files": files, "state": state}), encoding="utf-8")
        for path in (*unfinished.iterdir(), unfinished):
            _flush(path)
        shutil.rmtree(target, ignore_errors=True)  # an incomplete one
        unfinished.rename(target)
        _flush(directory)
        _link(directory / "last", target.name)
        for old in sorted(directory.glob("step-*"))[:-KEPT]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def newest_checkpoint(directory: Path) -> Path | None:
    """Return the newest complete checkpoint, if any; warn of each incomplete one that is skipped."""
    for unfinished in directory.glob(".step-*.writing"):
        warnings.warn(f"checkpoint {unfinished} was not fully written and is skipped", stacklevel=2)
    for path in sorted(directory.glob("step-*"), reverse=True):
        if _is_complete(path):
            return path
        warnings.warn(f"checkpoint {path} is not complete and is skipped", stacklevel=2)
    return None


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Return the `state` that was passed to `save_checkpoint`."""
    state: dict[str, Any] = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["state"]
    return state


def _is_complete(checkpoint: Path) -> bool:
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
