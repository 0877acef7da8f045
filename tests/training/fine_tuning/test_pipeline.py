from pathlib import Path
from types import SimpleNamespace
from typing import Any

from datasets import Dataset

from training.config import Config
from training.data.selection import answerable
from training.data.squad import load_splits
from training.device import build_accelerator
from training.fine_tuning.metrics_log import MetricsLog
from training.fine_tuning.pipeline import encoding_config, resume_from_newest_checkpoint


def test_the_decision_weighs_more_if_the_data_has_unanswerable_questions() -> None:
    rows: Dataset = load_splits("data/quickstart").train
    assert encoding_config(Config(), rows).decision_weight == 24
    assert encoding_config(Config(), answerable(rows)).decision_weight == 1
    assert encoding_config(Config(decision_weight=3), rows).decision_weight == 3


def test_plain_text_weighs_more_beside_a_heavier_decision() -> None:
    rows: Dataset = load_splits("data/quickstart").train
    assert encoding_config(Config(), rows).text_weight == 1
    assert encoding_config(Config(), answerable(rows)).text_weight == 0.5
    assert encoding_config(Config(unanswerable_share=0), rows).text_weight == 0.5
    assert encoding_config(Config(text_weight=0), rows).text_weight == 0


def test_a_run_that_was_killed_before_its_first_checkpoint_logs_its_steps_once(tmp_path: Path) -> None:
    accelerator = build_accelerator()
    log = MetricsLog(tmp_path, accelerator)
    log.log("base", 0, bits_per_byte=1.0)
    log.log("train", 1, loss=1.0)
    tuner: Any = SimpleNamespace(metrics_log=log, accelerator=accelerator)
    resume_from_newest_checkpoint(tuner, tmp_path / "checkpoints")
    assert (len(log.read("base")), log.read("train")) == (1, [])
