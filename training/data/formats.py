"""Read the local files that `datasets` cannot turn into rows: SQuAD's own nested JSON, and CSV.

Its JSON reader cannot say where the nesting is broken. Its CSV reader, which is pandas', turns the answer 1889 into a number and NA into a
missing value, and where an unquoted comma splits a cell, it shifts the whole row without an error.
"""

import csv
import hashlib
import json
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from datasets import Dataset, DatasetDict, Features, List, Value, concatenate_datasets
from datasets.exceptions import DatasetGenerationError
from datasets.fingerprint import Hasher

from training.errors import TrainingError

TEXT = Value("string")
ANSWERS = {"text": List(TEXT), "answer_start": List(Value("int32"))}
NESTED_COLUMNS = {"id": TEXT, "title": TEXT, "context": TEXT, "question": TEXT, "answers": ANSWERS}
KINDS = {str: "text", list: "a list", bool: "true or false", int: "a whole number"}

T = TypeVar("T")
Record = dict[str, Any]


def read_files(files: Mapping[str, Sequence[str]]) -> DatasetDict | None:
    """Read the files of each split as rows in SQuAD's schema. Returns None if they are neither nested JSON nor CSV.

    A missing `answer_start` becomes the answer's first place in its context, or -1. Raises TrainingError, with the place in the file, if
    the nesting or a cell is malformed.
    """
    names = [name for split in files.values() for name in split]
    if all(Path(name).suffix == ".csv" for name in names):
        read = {name: _read_csv(name) for name in names}
    else:
        documents = {name: _parse_nested(name) for name in names}
        if not any(documents.values()):
            return None
        read = {name: _read_nested(document, name) for name, document in documents.items()}
    return DatasetDict({str(split): concatenate_datasets([read[name] for name in part]) for split, part in files.items()})


def _cached(rows: Callable[[], Iterator[Record]], columns: Record, name: str) -> Dataset:
    """Return the rows of a file from the cache of `datasets` on disk, where they are written if the file or this code is new.

    Only what is made of cached rows, such as their tokens, is cached too, and shared by all processes.
    """
    if next(rows(), None) is None:
        raise TrainingError(f"data set {name}: it has no questions; expected at least one")
    with open(name, "rb") as file:
        content = [hashlib.file_digest(file, "sha256").hexdigest(), Path(__file__).read_bytes()]
    try:
        return Dataset.from_generator(rows, features=Features(columns), fingerprint=Hasher.hash(content))
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, TrainingError):
            raise error.__cause__ from None
        raise


def _parse_nested(name: str) -> Record | None:
    """Return the content of a file of nested JSON, or None for any other file."""
    if Path(name).suffix != ".json":
        return None
    try:
        document = json.loads(Path(name).read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError:  # JSON Lines, or broken: `datasets` reads it or raises
        return None
    return document if isinstance(document, dict) and "data" in document and "context" not in document else None


def _read_nested(document: Record | None, name: str) -> Dataset:
    if document is None:
        raise TrainingError(f"data set {name}: it is not SQuAD's nested JSON, as other files beside it are; expected one form in all files")
    return _cached(lambda: _questions(document, f"data set {name}"), NESTED_COLUMNS, name)


def _questions(document: Record, where: str) -> Iterator[Record]:
    """Yield a row for each question. `where` begins the message of every error."""
    for article_number, article in enumerate(_field(document, "data", list, where), start=1):
        in_article = f"{where}, article {article_number}"
        for paragraph_number, paragraph in enumerate(_field(article, "paragraphs", list, in_article), start=1):
            in_paragraph = f"{in_article}, paragraph {paragraph_number}"
            context = _field(paragraph, "context", str, in_paragraph)
            for number, entry in enumerate(_field(paragraph, "qas", list, in_paragraph), start=1):
                in_question = f"{in_paragraph}, question {number}"
                question = _field(entry, "question", str, in_question)
                yield {
                    "id": str(entry.get("id", "")),
                    # Some annotation tools write no titles. The number keeps such articles apart.
                    "title": str(article.get("title") or f"article {article_number}"),
                    "context": context,
                    "question": question,
                    "answers": _nested_answers(entry, context, in_question),
                }


def _nested_answers(entry: Record, context: str, where: str) -> Record:
    impossible = _field(entry, "is_impossible", bool, where, default=False)
    texts, starts = [], []
    for number, answer in enumerate([] if impossible else _field(entry, "answers", list, where), start=1):
        in_answer = f"{where}, answer {number}"
        texts.append(_field(answer, "text", str, in_answer))
        starts.append(_field(answer, "answer_start", int, in_answer, default=context.find(texts[-1])))
    return {"text": texts, "answer_start": starts}


def _field(record: Any, key: str, kind: type, where: str, default: Any = None) -> Any:
    """Return `record[key]`, or the default if it is missing. Raises TrainingError unless that is of this kind; text must not be blank."""
    if not isinstance(record, dict):
        raise TrainingError(f"{where}: it is {reprlib.repr(record)}; expected an object with {key}")
    value = record.get(key, default)
    if not isinstance(value, kind) or (isinstance(value, str) and not value.strip()):
        raise TrainingError(f"{where}: {key} is {reprlib.repr(value)}; expected {KINDS[kind]}")
    return value


def _read_csv(name: str) -> Dataset:
    names = next(_csv_lines(name), [])
    if {"answer", "answers"} <= set(names):
        raise TrainingError(f"data set {name}: it has the columns answer and answers; expected one of them")
    columns = {column: TEXT for column in names if column != "answer"}
    if {"answer", "answers"} & set(names):
        columns["answers"] = ANSWERS
    return _cached(lambda: _csv_rows(name), columns, name)


def _csv_lines(name: str) -> Iterator[list[str]]:
    """Yield the cells of each line that is not blank, and first the names of the columns. A line may contain quoted line breaks."""
    with open(name, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            yield from filter(None, reader)
        except csv.Error as error:
            raise TrainingError(
                f"data set {name}, line {reader.line_num}: {error}; "
                f'expected commas between cells, and quotes around a cell as in "a ""quoted"" word"'
            ) from error


def _csv_rows(name: str) -> Iterator[Record]:
    lines = _csv_lines(name)
    columns = next(lines, [])
    for number, cells in enumerate(lines, start=1):
        where = f"data set {name}, row {number}"
        if len(cells) != len(columns):
            raise TrainingError(
                f"{where}: it has {len(cells)} cells; expected {len(columns)}, as in the first line, and quotes around a cell with commas"
            )
        row = dict(zip(columns, cells, strict=True))
        if "answer" in row:
            answer = row.pop("answer")
            yield row | {"answers": _references([answer] if answer.strip() else [], None, row)}
        elif "answers" in row:
            yield row | {"answers": _references(*_parse_answers(row["answers"], where), row)}
        else:
            yield dict(row)  # the missing column is reported with those of the other forms


def _references(texts: list[str], starts: list[int] | None, row: Record) -> Record:
    context = row.get("context", "")
    return {"text": texts, "answer_start": [context.find(text) for text in texts] if starts is None else starts}


def _parse_answers(cell: str, where: str) -> tuple[list[str], list[int] | None]:
    """Return the texts in a cell of JSON, and where they start if it says so."""
    try:
        value: Any = json.loads(cell) if cell.strip() else []
    except json.JSONDecodeError:
        value = None
    texts, starts = (value.get("text"), value.get("answer_start")) if isinstance(value, dict) else (value, None)
    if _is_list(texts, str) and (starts is None or (_is_list(starts, int) and len(starts) == len(texts))):
        return texts, starts
    raise TrainingError(
        f'{where}: answers is {reprlib.repr(cell)}; expected JSON, {{"text": ["…"], "answer_start": [0]}} or ["…"], or an empty cell; '
        f"or a column called answer with the text itself"
    )


def _is_list(value: Any, kind: type[T]) -> TypeGuard[list[T]]:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)
