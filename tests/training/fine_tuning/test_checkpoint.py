"""Checkpoints: whole or not there."""

import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from training.device import build_accelerator
from training.fine_tuning.checkpoint import newest_checkpoint, read_state, save_checkpoint


@pytest.fixture
def accelerator() -> Accelerator:
    accelerator = build_accelerator()
    model = torch.nn.Linear(3, 2)
    accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
    return accelerator


def test_two_are_kept_and_last_is_the_newest(tmp_path: Path, accelerator: Accelerator) -> None:
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, accelerator, step, {"steps": step})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "step-00000002", "step-00000003"]
    newest = newest_checkpoint(tmp_path)
    assert newest == (tmp_path / "last").resolve()
    assert newest is not None
    assert read_state(newest) == {"steps": 3}


@pytest.mark.parametrize("damage", ["cut", "gone", "no state"])
def test_one_that_is_not_whole_is_skipped_with_a_warning(tmp_path: Path, accelerator: Accelerator, damage: str) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, accelerator, step, {"steps": step})
    weights = tmp_path / "step-00000002/model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-8])
    elif damage == "gone":
        weights.unlink()
    else:
        (tmp_path / "step-00000002/state.json").unlink()
    with pytest.warns(UserWarning, match="step-00000002 is not whole and is skipped"):
        assert newest_checkpoint(tmp_path) == tmp_path / "step-00000001"


def test_one_that_was_being_written_is_skipped_with_a_warning_and_swept(tmp_path: Path, accelerator: Accelerator) -> None:
    half = tmp_path / ".step-00000007.writing"
    half.mkdir()
    (half / "state.json").write_text(json.dumps({"files": {}, "state": {}}))
    with pytest.warns(UserWarning, match="was not written to its end"):
        assert newest_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, accelerator, 8, {})
    assert not half.exists()
