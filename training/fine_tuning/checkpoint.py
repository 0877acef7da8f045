"""Checkpoints of a fine-tuning that is under way: written aside and renamed, so that what has its name is whole."""

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

from accelerate import Accelerator

STATE = "state.json"
KEPT = 2
"""Checkpoints that are kept: the newest, and one more, should the disk have lost it."""


def save_checkpoint(directory: Path, accelerator: Accelerator, step: int, state: dict[str, Any]) -> None:
    """Write model, optimizer, every process's generators and `state` as `directory/step-…`, unless this step's is there.

    Every process must call this. Older ones are removed down to `KEPT`; `last` links to the newest.
    """
    target = directory / f"step-{step:08d}"
    aside = directory / f".{target.name}.writing"
    present = _whole(target)
    accelerator.wait_for_everyone()
    if present:
        return
    if accelerator.is_main_process:
        for left in directory.glob(".step-*.writing"):
            shutil.rmtree(left)
        aside.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(aside))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        files = {path.name: path.stat().st_size for path in aside.iterdir()}
        (aside / STATE).write_text(json.dumps({"files": files, "state": state}), encoding="utf-8")
        for path in (*aside.iterdir(), aside):
            _flush(path)
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)
        _flush(directory)
        _link(directory / "last", target.name)
        for old in sorted(directory.glob("step-*"))[:-KEPT]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def newest_checkpoint(directory: Path) -> Path | None:
    """The newest whole checkpoint; warns of each that was not written to its end, or lost a part since."""
    for half in directory.glob(".step-*.writing"):
        warnings.warn(f"checkpoint {half} was not written to its end and is skipped", stacklevel=2)
    for path in sorted(directory.glob("step-*"), reverse=True):
        if _whole(path):
            return path
        warnings.warn(f"checkpoint {path} is not whole and is skipped", stacklevel=2)
    return None


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What `save_checkpoint` was given as `state`."""
    state: dict[str, Any] = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["state"]
    return state


def _whole(checkpoint: Path) -> bool:
    try:
        files = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["files"]
        return all((checkpoint / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError):
        return False


def _flush(path: Path) -> None:
    """Have the disk hold what was written, before a rename promises it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(link: Path, target: str) -> None:
    aside = link.with_name(f".{link.name}")
    aside.unlink(missing_ok=True)
    aside.symlink_to(target)
    aside.rename(link)
