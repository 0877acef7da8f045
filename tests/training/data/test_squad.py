import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from training.data.selection import contexts, describe_unanswered, draw, eval_loader, split_contexts
from training.data.squad import load_splits
from training.errors import TrainingError

ROW: dict[str, Any] = {
    "id": "1",
    "title": "t",
    "context": "It was Mary Shelley.",
    "question": "Who?",
    "answers": {"text": ["Mary Shelley"], "answer_start": [7]},
}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_quickstart_loads_with_both_splits() -> None:
    splits = load_splits("data/quickstart")
    assert (len(splits.train), len(splits.test)) == (866, 234)
    assert not set(contexts(splits.train)) & set(contexts(splits.test))
    assert len(contexts(splits.train)) == 120


def test_description_has_counts_and_a_fingerprint_of_the_content(tmp_path: Path) -> None:
    rows = [ROW | {"context": f"It was Mary Shelley. {n}"} for n in range(80)]
    one, same = load_splits(str(write(tmp_path / "a.jsonl", rows))), load_splits(str(write(tmp_path / "b.jsonl", rows)))
    other = load_splits(str(write(tmp_path / "c.jsonl", [*rows[:-1], rows[-1] | {"question": "Who else?"}])))
    assert one.description["train_rows"] + one.description["test_rows"] == 80
    assert one.description["fingerprint"] == same.description["fingerprint"] != other.description["fingerprint"]


def test_a_single_file_is_split_by_context(tmp_path: Path) -> None:
    rows = [ROW | {"context": f"It was Mary Shelley. {n // 2}"} for n in range(200)]
    splits = load_splits(str(write(tmp_path / "squad.jsonl", rows)))
    assert 5 < len(splits.test) < 50
    assert len(splits.train) + len(splits.test) == 200
    assert not set(contexts(splits.train)) & set(contexts(splits.test))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{key: value for key, value in ROW.items() if key != "answers"}], "no column answers among id, title, context, question"),
        ([{key: value for key, value in ROW.items() if key not in ("context", "question")}], "no column context, question"),
        ([ROW | {"answers": "Mary Shelley"}], "row 1: answers is 'Mary Shelley'"),
        ([ROW, ROW | {"answers": None}], "row 2: answers is None"),
        ([ROW, ROW | {"context": None}], "row 2: context is None"),
        ([ROW | {"question": 7}], "row 1: question is 7"),
        ([ROW, ROW | {"context": " "}], "row 2: context is ' '"),
        ([ROW | {"answers": {"text": [], "answer_start": []}}], "no question has an answer"),
    ],
    ids=["no answers", "two missing", "answers as text", "null answers", "null context", "number", "blank", "no answer at all"],
)
def test_an_error_names_what_is_wrong_with_the_schema(tmp_path: Path, rows: list[dict[str, Any]], expected: str) -> None:
    with pytest.raises(TrainingError, match=expected) as error:
        load_splits(str(write(tmp_path / "bad.jsonl", rows)))
    assert "expected SQuAD's schema" in str(error.value)


def test_answers_need_no_answer_start(tmp_path: Path) -> None:
    rows = [ROW | {"context": f"It was Mary Shelley. {n}", "answers": {"text": ["Mary Shelley"]}} for n in range(3)]
    splits = load_splits(str(write(tmp_path / "squad.jsonl", rows)))
    assert (len(splits.train), len(splits.test)) == (2, 1)


def test_a_broken_or_empty_file_raises(tmp_path: Path) -> None:
    broken, empty = write(tmp_path / "broken.jsonl", [ROW, ROW]), tmp_path / "empty.jsonl"
    broken.write_text(broken.read_text()[:-20])
    empty.touch()
    with pytest.raises(TrainingError, match=r"cannot be loaded \(.*JSON"):
        load_splits(str(broken))
    with pytest.raises(TrainingError, match="the file is empty; expected SQuAD's schema, one row per question"):
        load_splits(str(empty))


def test_rows_without_an_answer_are_counted(tmp_path: Path) -> None:
    rows = [ROW | {"context": f"It was Mary Shelley. {n}"} for n in range(30)]
    assert describe_unanswered(load_splits(str(write(tmp_path / "all.jsonl", rows)))) == ""
    unanswered = ROW | {"answers": {"text": [], "answer_start": []}}
    splits = load_splits(str(write(tmp_path / "some.jsonl", [*rows, unanswered])))
    assert describe_unanswered(splits) == " (1 of them unanswerable)"


def test_a_single_context_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="one context and no test split"):
        load_splits(str(write(tmp_path / "squad.jsonl", [ROW])))


def test_an_empty_split_file_raises(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data/train.jsonl", [ROW])
    write(tmp_path / "data/validation.jsonl", [])
    with pytest.raises(TrainingError, match=f"data set {tmp_path}/data cannot be loaded") as error:
        load_splits(str(tmp_path / "data"))
    assert "expected SQuAD's schema" in str(error.value)


def test_a_split_without_rows_raises(tmp_path: Path) -> None:
    rows = Dataset.from_list([ROW])
    rows.to_parquet(tmp_path / "train.parquet")
    rows.select([]).to_parquet(tmp_path / "validation.parquet")
    with pytest.raises(TrainingError, match=r"cannot be loaded \(Instruction \"validation\" corresponds to no data"):
        load_splits(str(tmp_path))


@pytest.mark.parametrize("source", ["./nowhere", "/no/such/place", "nowhere", "missing.jsonl"])
def test_a_missing_path_raises(source: str) -> None:
    with pytest.raises(TrainingError, match=f"data set {source}: no such file or directory; expected SQuAD's schema"):
        load_splits(source)


def test_an_unknown_file_format_raises(tmp_path: Path) -> None:
    path = tmp_path / "squad.xlsx"
    path.write_text("context,question\n")
    with pytest.raises(TrainingError, match=r"cannot read \.xlsx; expected \.json, \.jsonl, \.parquet, \.csv"):
        load_splits(str(path))


def test_draw_is_a_seeded_sample() -> None:
    rows = load_splits("data/quickstart").train
    one, again, other = draw(rows, 10, seed=1), draw(rows, 10, seed=1), draw(rows, 10, seed=2)
    assert one["id"] == again["id"] != other["id"]
    assert len(draw(rows, 10_000, seed=0)) == len(draw(rows, None, seed=0)) == len(rows)


def test_splits_keep_contexts_whole() -> None:
    rows = load_splits("data/quickstart").train
    taken, rest = split_contexts(rows, 100, seed=1)
    assert 90 < len(taken) <= 100
    assert len(taken) + len(rest) == len(rows)
    assert not set(taken["context"]) & set(rest["context"])
    assert taken["question"] == split_contexts(rows, 100, seed=1)[0]["question"] != split_contexts(rows, 100, seed=2)[0]["question"]
    assert len(split_contexts(rows, 10_000, seed=0)[1]) == 0


def test_eval_loader_yields_batches_of_rows() -> None:
    rows = load_splits("data/quickstart").test
    batches = list(eval_loader(rows, batch_size=50))
    assert [len(batch) for batch in batches] == [50, 50, 50, 50, 34]
    assert batches[0][0]["question"] == rows[0]["question"]
