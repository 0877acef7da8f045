"""Only a complete checkpoint is resumed from."""

import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from training.checkpoint import newest_checkpoint, read_state
from training.device import build_accelerator
from training.errors import TrainingError
from training.fine_tuning import checkpoint
from training.fine_tuning.checkpoint import require_shared, save_checkpoint


@pytest.fixture
def accelerator() -> Accelerator:
    accelerator = build_accelerator()
    model = torch.nn.Linear(3, 2)
    accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
    return accelerator


def test_two_checkpoints_are_kept_and_last_links_to_the_newest(tmp_path: Path, accelerator: Accelerator) -> None:
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, accelerator, step, {"steps": step})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "step-00000002", "step-00000003"]
    newest = newest_checkpoint(tmp_path)
    assert newest == (tmp_path / "last").resolve()
    assert newest is not None
    assert read_state(newest) == {"steps": 3}


@pytest.mark.parametrize("damage", ["truncated", "missing", "no state"])
def test_an_incomplete_checkpoint_is_skipped_with_a_warning(tmp_path: Path, accelerator: Accelerator, damage: str) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, accelerator, step, {"steps": step})
    weights = tmp_path / "step-00000002/model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-8])
    elif damage == "missing":
        weights.unlink()
    else:
        (tmp_path / "step-00000002/state.json").unlink()
    with pytest.warns(UserWarning, match="step-00000002 is not complete and is skipped"):
        assert newest_checkpoint(tmp_path) == tmp_path / "step-00000001"


def test_an_unfinished_checkpoint_is_skipped_with_a_warning_and_removed(tmp_path: Path, accelerator: Accelerator) -> None:
    unfinished = tmp_path / ".step-00000007.writing"
    unfinished.mkdir()
    (unfinished / "state.json").write_text(json.dumps({"files": {}, "state": {}}))
    with pytest.warns(UserWarning, match="was not fully written"):
        assert newest_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, accelerator, 8, {})
    assert not unfinished.exists()


def test_a_directory_that_another_machine_does_not_see_is_refused(
    tmp_path: Path, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_shared(tmp_path, accelerator)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(checkpoint, "broadcast_object_list", lambda _: ["written-on-another-disk"])
    with pytest.raises(TrainingError, match="is not one directory on all machines"):
        require_shared(tmp_path, accelerator)
