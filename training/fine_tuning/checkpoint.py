"""Save a checkpoint of the fine-tuning, with all processes."""

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from training.checkpoint import begin_checkpoint, checkpoint_path, finish_checkpoint, is_complete, unfinished_path


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
