from datasets import Dataset

from training.config import Config
from training.data.selection import answerable
from training.data.squad import load_splits
from training.fine_tuning.pipeline import encoding_config


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
