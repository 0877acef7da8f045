"""Every row of the embedded data set."""

import json
from typing import Any

import pytest

from tests.conftest import QUICKSTART

Rows = list[dict[str, Any]]


def read(split: str) -> Rows:
    return [json.loads(line) for line in (QUICKSTART / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


TRAIN, VALIDATION = read("train"), read("validation")


@pytest.mark.parametrize("row", [*TRAIN, *VALIDATION], ids=lambda row: row["id"])
def test_row_has_the_schema_and_exact_spans(row: dict[str, Any]) -> None:
    assert list(row) == ["id", "title", "context", "question", "answers"]
    assert 60 <= len(row["context"].split()) <= 120
    assert row["context"] == row["context"].strip()
    assert row["question"].endswith("?")
    assert list(row["answers"]) == ["text", "answer_start"]
    texts, starts = row["answers"]["text"], row["answers"]["answer_start"]
    assert 1 <= len(texts) == len(starts)
    for text, start in zip(texts, starts, strict=True):
        assert text == text.strip()
        assert row["context"][start : start + len(text)] == text
        assert row["context"].count(text) == 1  # so that the span meant is the only one


def test_size() -> None:
    assert len({row["context"] for row in [*TRAIN, *VALIDATION]}) >= 120
    assert len(TRAIN) + len(VALIDATION) >= 600
    assert len({row["id"] for row in [*TRAIN, *VALIDATION]}) == len(TRAIN) + len(VALIDATION)
    assert len({row["question"] for row in [*TRAIN, *VALIDATION]}) == len(TRAIN) + len(VALIDATION)


def test_a_fifth_of_the_paragraphs_is_held_out_and_shares_no_subject() -> None:
    held_out, learned = ({row["context"] for row in rows} for rows in (VALIDATION, TRAIN))
    assert len(held_out) * 4 == len(learned)
    assert not {row["title"] for row in TRAIN} & {row["title"] for row in VALIDATION}
