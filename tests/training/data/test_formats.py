"""SQuAD's nested JSON and CSV give the same rows as SQuAD's flat schema."""

import csv
import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import PROJECT, QUICKSTART
from tests.docs.markdown import Document
from training.data import formats
from training.data.squad import load_splits
from training.errors import TrainingError

Row = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory for the whole module, which also holds the cache of `datasets`."""
    path = tmp_path_factory.mktemp("formats")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", path / "cache")
        yield path


def row(n: int, **changes: Any) -> Row:
    context = f"Keeper {n} was Anna Berg."
    answers = {"text": ["Anna Berg", "Berg"], "answer_start": [context.index("Anna"), context.index("Berg")]}
    return {"id": f"q{n}", "title": f"Light {n // 2}", "context": context, "question": f"Who was {n}?", "answers": answers} | changes


UNANSWERED: Row = {"text": [], "answer_start": []}
ROWS = [row(0), row(1), row(1, id="q1b", question="Who was 7?", answers=UNANSWERED), row(2)]


def nested(rows: list[Row], version: str = "v2.0") -> Row:
    articles = []
    for title, of_article in itertools.groupby(rows, lambda row: row["title"]):
        paragraphs = []
        for context, of_context in itertools.groupby(of_article, lambda row: row["context"]):
            entries = []
            for row in of_context:
                answers = [
                    {"text": text, "answer_start": start}
                    for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)
                ]
                entry = {"id": row["id"], "question": row["question"], "answers": answers}
                if version == "v2.0":
                    entry["is_impossible"] = not answers
                    if not answers:
                        entry["plausible_answers"] = [{"text": "Anna", "answer_start": 0}]
                entries.append(entry)
            paragraphs.append({"context": context, "qas": entries})
        articles.append({"title": title, "paragraphs": paragraphs})
    return {"version": version, "data": articles}


def write_nested(path: Path, rows: list[Row], version: str = "v2.0") -> Path:
    path.write_text(json.dumps(nested(rows, version)))
    return path


def write_csv(path: Path, header: list[str], *rows: list[str]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_rows_as_csv(path: Path, rows: list[Row]) -> Path:
    columns = ["id", "title", "context", "question", "answers"]
    return write_csv(path, columns, *([*[row[c] for c in columns[:-1]], json.dumps(row["answers"])] for row in rows))


def read(path: Path) -> list[Row]:
    splits = formats.read_files({"train": [str(path)]})
    assert splits is not None
    rows: list[Row] = splits["train"].to_list()
    return rows


text = st.text(max_size=20).filter(str.strip)
starts = st.integers(0, 2**31 - 1)
references = st.lists(st.tuples(text, starts), max_size=3).map(
    lambda pairs: {"text": [text for text, _ in pairs], "answer_start": [start for _, start in pairs]}
)
flat_rows = st.lists(
    st.fixed_dictionaries({"id": st.text(max_size=5), "title": text, "context": text, "question": text, "answers": references}),
    min_size=1,
    max_size=6,
)


@settings(max_examples=50, deadline=None)
@given(rows=flat_rows, version=st.sampled_from(["1.1", "v2.0"]))
def test_rows_survive_the_nested_form(directory: Path, rows: list[Row], version: str) -> None:
    assert read(write_nested(directory / "rows.json", rows, version)) == rows


@settings(max_examples=50, deadline=None)
@given(rows=flat_rows)
def test_rows_survive_csv(directory: Path, rows: list[Row]) -> None:
    assert read(write_rows_as_csv(directory / "rows.csv", rows)) == rows


def test_the_columns_are_squads_and_are_read_from_the_cache(directory: Path) -> None:
    splits = formats.read_files({"train": [str(write_nested(directory / "columns.json", ROWS))]})
    assert splits is not None
    assert splits["train"].column_names == list(ROWS[0])
    assert splits["train"].cache_files


def test_a_changed_file_is_read_again(directory: Path) -> None:
    path = directory / "changing.json"
    assert len(read(write_nested(path, ROWS))) == 4
    assert len(read(write_nested(path, ROWS[:2]))) == 2


def test_a_directory_with_nested_files_has_the_splits_of_their_names(tmp_path: Path) -> None:
    write_nested(tmp_path / "train-v2.0.json", ROWS[:3])
    write_nested(tmp_path / "dev-v2.0.json", ROWS[3:])
    (tmp_path / "evaluate-v2.0.py").touch()
    splits = load_splits(str(tmp_path))
    assert (splits.train.to_list(), splits.test.to_list()) == (ROWS[:3], ROWS[3:])


def test_a_directory_with_csv_files_has_the_splits_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("Two files of each.")
    for name, rows in {"train-1": ROWS[:2], "train-2": ROWS[2:3], "validation": ROWS[3:]}.items():
        write_rows_as_csv(tmp_path / f"{name}.csv", rows)
    splits = load_splits(str(tmp_path))
    assert (splits.train.to_list(), splits.test.to_list()) == (ROWS[:3], ROWS[3:])


@pytest.mark.parametrize(("name", "write"), [("dev-v2.0.json", write_nested), ("dev.csv", write_rows_as_csv)])
def test_a_single_file_is_the_training_split(tmp_path: Path, name: str, write: Callable[[Path, list[Row]], Path]) -> None:
    splits = load_splits(str(write(tmp_path / name, ROWS)))
    assert sorted([*splits.train["id"], *splits.test["id"]]) == ["q0", "q1", "q1b", "q2"]


def test_all_forms_of_the_same_rows_have_the_same_fingerprint(tmp_path: Path) -> None:
    rows: list[Row] = Dataset.from_json(str(QUICKSTART / "train.jsonl")).to_list()
    nested_file, csv_file = write_nested(tmp_path / "train.json", rows), write_rows_as_csv(tmp_path / "train.csv", rows)
    flat = load_splits(str(QUICKSTART / "train.jsonl")).description
    assert load_splits(str(nested_file)).description == load_splits(str(csv_file)).description == flat


def test_flat_json_files_stay_with_datasets(tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    for name, content in {"lines.json": lines, "array.json": json.dumps(ROWS), "one.json": json.dumps(ROWS[0] | {"data": 1})}.items():
        (tmp_path / name).write_text(content)
        assert formats.read_files({"train": [str(tmp_path / name)]}) is None
    assert len(load_splits(str(tmp_path / "lines.json")).train) + len(load_splits(str(tmp_path / "lines.json")).test) == 4


def test_optional_parts_of_the_nested_form_may_be_missing(tmp_path: Path) -> None:
    entries = [{"question": "Who?", "answers": [{"text": "Anna Berg"}]}, {"id": 7, "question": "Where?", "answers": []}]
    path = tmp_path / "tool.json"
    path.write_text("\ufeff" + json.dumps({"data": [{"paragraphs": [{"context": "I am Anna Berg.", "qas": entries}]}]}), encoding="utf-8")
    assert read(path) == [
        {
            "id": identifier,
            "title": "article 1",
            "context": "I am Anna Berg.",
            "question": question,
            "answers": answers,
        }
        for identifier, question, answers in (("", "Who?", {"text": ["Anna Berg"], "answer_start": [5]}), ("7", "Where?", UNANSWERED))
    ]


def test_an_impossible_question_has_no_answers(tmp_path: Path) -> None:
    content = nested(ROWS[:1])
    content["data"][0]["paragraphs"][0]["qas"][0]["is_impossible"] = True
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert read(tmp_path / "a.json")[0]["answers"] == UNANSWERED


PLACE = "article 2, paragraph 1, question 1"


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("data", {}, ": data is {}; expected a list"),
        ("data", [], ": it has no questions; expected at least one"),
        ("data/1", "x", ", article 2: it is 'x'; expected an object with paragraphs"),
        ("data/1/paragraphs", None, ", article 2: paragraphs is None; expected a list"),
        ("data/1/paragraphs/0", [], ", article 2, paragraph 1: it is []; expected an object with context"),
        ("data/1/paragraphs/0/context", " ", ", article 2, paragraph 1: context is ' '; expected text"),
        ("data/1/paragraphs/0/qas", {}, ", article 2, paragraph 1: qas is {}; expected a list"),
        ("data/1/paragraphs/0/qas/0", 1, f", {PLACE}: it is 1; expected an object with question"),
        ("data/1/paragraphs/0/qas/0/question", 1, f", {PLACE}: question is 1; expected text"),
        ("data/1/paragraphs/0/qas/0/is_impossible", "no", f", {PLACE}: is_impossible is 'no'; expected true or false"),
        ("data/1/paragraphs/0/qas/0/answers", None, f", {PLACE}: answers is None; expected a list"),
        ("data/1/paragraphs/0/qas/0/answers/1", "x", f", {PLACE}, answer 2: it is 'x'; expected an object with text"),
        ("data/1/paragraphs/0/qas/0/answers/1/text", "", f", {PLACE}, answer 2: text is ''; expected text"),
        ("data/1/paragraphs/0/qas/0/answers/1/answer_start", "3", f", {PLACE}, answer 2: answer_start is '3'; expected a whole number"),
    ],
)
def test_an_error_names_the_place_in_the_nesting(tmp_path: Path, path: str, value: Any, expected: str) -> None:
    content = nested([row(0), row(2), row(4)])
    *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    target: Any = content
    for part in parents:
        target = target[part]
    target[last] = value
    (tmp_path / "bad.json").write_text(json.dumps(content))
    with pytest.raises(TrainingError, match=re.escape(f"data set {tmp_path}/bad.json{expected}") + "$"):
        load_splits(str(tmp_path / "bad.json"))


def test_a_broken_nested_file_raises(tmp_path: Path) -> None:
    path = write_nested(tmp_path / "train.json", ROWS)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(TrainingError, match=r"cannot be loaded \(.*or SQuAD's nested JSON"):
        load_splits(str(path))


def test_nested_and_flat_files_in_one_directory_raise(tmp_path: Path) -> None:
    write_nested(tmp_path / "train.json", ROWS)
    (tmp_path / "dev.json").write_text(json.dumps(ROWS))
    with pytest.raises(TrainingError, match=r"dev\.json: it is not SQuAD's nested JSON, as other files beside it are; expected one form"):
        load_splits(str(tmp_path))


@pytest.mark.parametrize(
    ("header", "cells", "expected"),
    [
        ("answer", "Anna Berg", {"text": ["Anna Berg"], "answer_start": [5]}),
        ("answer", "Bob", {"text": ["Bob"], "answer_start": [-1]}),
        ("answer", "1889", {"text": ["1889"], "answer_start": [-1]}),
        ("answer", "NA", {"text": ["NA"], "answer_start": [-1]}),
        ("answer", " ", UNANSWERED),
        ("answers", "", UNANSWERED),
        ("answers", "[]", UNANSWERED),
        ("answers", '["Anna Berg", "Berg"]', {"text": ["Anna Berg", "Berg"], "answer_start": [5, 10]}),
        ("answers", '{"text": ["Berg"]}', {"text": ["Berg"], "answer_start": [10]}),
        ("answers", '{"text": ["Berg"], "answer_start": [3]}', {"text": ["Berg"], "answer_start": [3]}),
        ("answers", '{"text": [], "answer_start": []}', UNANSWERED),
    ],
)
def test_answers_in_csv(tmp_path: Path, header: str, cells: str, expected: Row) -> None:
    path = write_csv(tmp_path / "a.csv", ["context", "question", header], ["I am Anna Berg.", "Who?", cells])
    assert read(path) == [{"context": "I am Anna Berg.", "question": "Who?", "answers": expected}]


def test_csv_of_a_spreadsheet(tmp_path: Path) -> None:
    path = tmp_path / "sheet.csv"
    path.write_bytes('\ufeffcontext,question,answer,note\r\n"Anna ""A."" Berg,\r\nkeeper",Who?,Béa,1\r\n\r\n2,3,,\r\n'.encode())
    assert read(path) == [
        {"context": 'Anna "A." Berg,\r\nkeeper', "question": "Who?", "note": "1", "answers": {"text": ["Béa"], "answer_start": [-1]}},
        {"context": "2", "question": "3", "note": "", "answers": UNANSWERED},
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("context,question,answer\na,b,c\n,b,c\n", "split train, row 2: context is ''; expected SQuAD's schema"),
        ("context,question,answer\na,b,c\na, ,c\n", "split train, row 2: question is ' '; expected SQuAD's schema"),
        ("context,question\na,b\n", "no column answers among context, question; expected SQuAD's schema"),
        ("text,question,answer\na,b,c\n", "no column context among text, question, answers; expected SQuAD's schema"),
        ("context,question,answer,answers\na,b,c,[]\n", "it has the columns answer and answers; expected one of them"),
        ("context,question,answer\na,b,c\na, d,b,c\n", "row 2: it has 4 cells; expected 3, as in the first line, and quotes around a cell"),
        ("context,question,answer\na,b\n", "row 1: it has 2 cells; expected 3"),
        ('context,question,answer\na,b,c\n"a"x,b,c\n', "line 3: ',' expected after '\"'; expected commas between cells, and quotes around"),
        ('context,question,answer\na,b,"c\n', "line 2: unexpected end of data; expected commas between cells"),
        ("context,question,answers\na,b,[]\na,b,Anna\n", "row 2: answers is 'Anna'; expected JSON"),
        ("context,question,answers\na,b,[1]\n", "row 1: answers is '[1]'; expected JSON"),
        ("context,question,answers\na,b,7\n", "row 1: answers is '7'; expected JSON"),
        ("context,question,answers\na,b,{}\n", "row 1: answers is '{}'; expected JSON"),
        (
            'context,question,answers\na,b,"{""text"": [""a""], ""answer_start"": []}"\n',
            "a column called answer with the text itself",
        ),
        ("context,question,answer\na,b,\n", "no question has an answer"),
        ("context,question,answer\n", "it has no questions; expected at least one"),
        ("\n", "it has no questions; expected at least one"),
    ],
)
def test_an_error_names_the_place_in_csv(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "bad.csv").write_text(content)
    with pytest.raises(TrainingError, match=f"data set {tmp_path}/bad.csv.*{re.escape(expected)}"):
        load_splits(str(tmp_path / "bad.csv"))


def test_csv_in_another_encoding_raises(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes("context,question,answer\nBéa,Who?,Béa\n".encode("latin-1"))
    with pytest.raises(TrainingError, match=r"cannot be loaded \('utf-8' codec can't decode"):
        load_splits(str(tmp_path / "latin.csv"))


def test_the_examples_of_the_docs_can_be_read(tmp_path: Path) -> None:
    blocks = {block.language: block.text for block in Document("docs/training.md", (PROJECT / "docs/training.md").read_text()).blocks}
    for language in ("json", "csv"):
        (tmp_path / f"a.{language}").write_text(blocks[language])
        answers = [row["answers"]["text"] for row in read(tmp_path / f"a.{language}")]
        assert answers == [["Anna Berg"], []]
