"""The rows of the quickstart data set."""

import json
from typing import Any

from tests.conftest import QUICKSTART

Rows = list[dict[str, Any]]


def read(split: str) -> Rows:
    return [json.loads(line) for line in (QUICKSTART / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


TRAIN, VALIDATION = read("train"), read("validation")


def is_unanswerable(row: dict[str, Any]) -> bool:
    """Whether the id says that the paragraph does not answer the question."""
    return "-u" in row["id"][-4:]


def broken_rules(row: dict[str, Any]) -> list[str]:
    """Return the rules that a row breaks."""
    context, question, texts, starts = row["context"], row["question"], row["answers"]["text"], row["answers"]["answer_start"]
    rules = {
        "columns": list(row) == ["id", "title", "context", "question", "answers"],
        "60 to 120 words": 60 <= len(context.split()) <= 120,
        "no surrounding space": all(text == text.strip() for text in (context, question, *texts)),
        "a question": question.endswith("?"),
        "answers": len(texts) == len(starts) and bool(texts) != is_unanswerable(row),
        "exact spans": all(context[start : start + len(text)] == text for text, start in zip(texts, starts, strict=False)),
        "one occurrence": all(context.count(text) == 1 for text in texts),
    }
    return [f"{row['id']}: {rule}" for rule, holds in rules.items() if not holds]


def test_no_row_breaks_a_rule() -> None:
    assert [rule for row in [*TRAIN, *VALIDATION] for rule in broken_rules(row)] == []


def test_a_broken_rule_is_found() -> None:
    row = TRAIN[0]
    shifted = row | {"answers": row["answers"] | {"answer_start": [row["answers"]["answer_start"][0] + 1]}}
    assert broken_rules(shifted) == [f"{row['id']}: exact spans"]
    assert broken_rules(row | {"question": "Who"}) == [f"{row['id']}: a question"]
    assert broken_rules(row | {"answers": {"text": [], "answer_start": []}}) == [f"{row['id']}: answers"]


def test_the_data_set_is_large_enough_without_duplicates() -> None:
    assert len({row["context"] for row in [*TRAIN, *VALIDATION]}) >= 120
    assert len(TRAIN) + len(VALIDATION) >= 600
    assert len({row["id"] for row in [*TRAIN, *VALIDATION]}) == len(TRAIN) + len(VALIDATION)
    assert len({row["question"] for row in [*TRAIN, *VALIDATION]}) == len(TRAIN) + len(VALIDATION)


def test_each_paragraph_has_questions_that_it_answers_and_some_that_it_does_not() -> None:
    for rows, least in ((TRAIN, 120), (VALIDATION, 40)):
        answered, unanswered = ({row["context"] for row in rows if is_unanswerable(row) == kind} for kind in (False, True))
        assert answered == unanswered
        assert sum(is_unanswerable(row) for row in rows) >= least


def test_a_fifth_of_the_paragraphs_is_held_out_with_titles_of_their_own() -> None:
    held_out, train = ({row["context"] for row in rows} for rows in (VALIDATION, TRAIN))
    assert len(held_out) * 4 == len(train)
    assert not {row["title"] for row in TRAIN} & {row["title"] for row in VALIDATION}
