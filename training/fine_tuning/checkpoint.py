"""Checkpoints of the fine-tuning, which all processes write and read together."""

import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from training.checkpoint import begin_checkpoint, checkpoint_path, finish_checkpoint, is_complete, newest_checkpoint, unfinished_path
from training.errors import TrainingError


def require_shared(directory: Path, accelerator: Accelerator) -> None:
    """Raise TrainingError in every process unless all of them see the files that the main process writes to `directory`.

    Checkpoints hold a file of each process, and after the death of a machine another one may become the main process.
    """
    with tempfile.NamedTemporaryFile(dir=directory) if accelerator.is_main_process else nullcontext() as probe:
        name = broadcast_object_list([probe and Path(probe.name).name])[0]
        all_see_it = all(gather_object([(directory / name).exists()]))
    if not all_see_it:
        raise TrainingError(f"--output-dir {directory} is not one directory on all machines: take one that they share, as over NFS")


def find_checkpoint(directory: Path, accelerator: Accelerator) -> Path | None:
    """Return the newest complete checkpoint, if any, as the main process sees it: over NFS, others may not see the newest one yet."""
    checkpoint: Path | None = broadcast_object_list([newest_checkpoint(directory) if accelerator.is_main_process else None])[0]
    return checkpoint


def save_checkpoint(directory: Path, accelerator: Accelerator, step: int, state: dict[str, Any]) -> None:
    """Write the model, the optimizer, every process's random generators and `state` as `directory/step-…`, unless that exists.

    Every process must call this.
    """
    checkpoint = checkpoint_path(directory, step)
    if broadcast_object_list([is_complete(checkpoint)])[0]:  # the main process looks: others may see another file system
        return
    if accelerator.is_main_process:
        begin_checkpoint(checkpoint)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(unfinished_path(checkpoint)))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        finish_checkpoint(checkpoint, state)
    accelerator.wait_for_everyone()
