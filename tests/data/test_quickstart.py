"""Every row of the embedded data set."""

import json
from typing import Any

from tests.conftest import QUICKSTART

Rows = list[dict[str, Any]]


def read(split: str) -> Rows:
    return [json.loads(line) for line in (QUICKSTART / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


TRAIN, VALIDATION = read("train"), read("validation")


def faults(row: dict[str, Any]) -> list[str]:
    """What is wrong with a row."""
    context, question, texts, starts = row["context"], row["question"], row["answers"]["text"], row["answers"]["answer_start"]
    rules = {
        "columns": list(row) == ["id", "title", "context", "question", "answers"],
        "60 to 120 words": 60 <= len(context.split()) <= 120,
        "no outer space": all(text == text.strip() for text in (context, question, *texts)),
        "a question": question.endswith("?"),
        "answers": 1 <= len(texts) == len(starts),
        "exact spans": all(context[start : start + len(text)] == text for text, start in zip(texts, starts, strict=False)),
        "one occurrence": all(context.count(text) == 1 for text in texts),
    }
    return [f"{row['id']}: {rule}" for rule, holds in rules.items() if not holds]


def test_every_row() -> None:
    assert [fault for row in [*TRAIN, *VALIDATION] for fault in faults(row)] == []


def test_a_wrong_row_would_be_found() -> None:
    row = TRAIN[0]
    shifted = row | {"answers": row["answers"] | {"answer_start": [row["answers"]["answer_start"][0] + 1]}}
    assert faults(shifted) == [f"{row['id']}: exact spans"]
    assert faults(row | {"question": "Who"}) == [f"{row['id']}: a question"]


def test_size() -> None:
    assert len({row["context"] for row in [*TRAIN, *VALIDATION]}) >= 120
    assert len(TRAIN) + len(VALIDATION) >= 600
    assert len({row["id"] for row in [*TRAIN, *VALIDATION]}) == len(TRAIN) + len(VALIDATION)
    assert len({row["question"] for row in [*TRAIN, *VALIDATION]}) == len(TRAIN) + len(VALIDATION)


def test_a_fifth_of_the_paragraphs_is_held_out_and_shares_no_subject() -> None:
    held_out, learned = ({row["context"] for row in rows} for rows in (VALIDATION, TRAIN))
    assert len(held_out) * 4 == len(learned)
    assert not {row["title"] for row in TRAIN} & {row["title"] for row in VALIDATION}
