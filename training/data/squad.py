"""Load and check question-answering data in SQuAD's schema, from the Hub or from local files."""

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from datasets import Dataset, load_dataset

from training.errors import TrainingError, first_line

COLUMNS = {"context", "question", "answers"}
SCHEMA = "expected SQuAD's schema, a row for each question: context (text), question (text), answers {text: [text, …]}"
FORMATS = {".json": "json", ".jsonl": "json", ".parquet": "parquet"}


class References(TypedDict):
    """The accepted answers to a question."""

    text: list[str]


class Row(TypedDict):
    """One question of a data set in SQuAD's schema."""

    context: str
    question: str
    answers: References


@dataclass(frozen=True)
class Splits:
    """A data set's training and test questions. No context is in both."""

    train: Dataset
    test: Dataset

    @functools.cached_property
    def description(self) -> dict[str, Any]:
        """For the models' metadata: a fingerprint of the content, and row counts. Reads all rows, once."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            for batch in split.select_columns(sorted(COLUMNS)).iter(1000):
                digest.update(json.dumps(batch, sort_keys=True).encode())
        return {
            "fingerprint": digest.hexdigest()[:16],
            "train_rows": len(self.train),
            "test_rows": len(self.test),
        }


def load_splits(source: str) -> Splits:
    """Load a Hub id, a directory or a file. The test split is `validation` or `test`; where there is neither, a tenth of
    the contexts is held out. Raises TrainingError where the source, a column or a row is missing.
    """
    path = Path(source).expanduser()
    try:
        if path.is_file():
            if not path.stat().st_size:
                raise TrainingError(f"data set {source}: the file is empty; {SCHEMA}")
            if path.suffix not in FORMATS:
                raise TrainingError(f"data set {source}: cannot read {path.suffix or 'this file'}; expected {', '.join(FORMATS)}")
            splits = load_dataset(FORMATS[path.suffix], data_files={"train": str(path)})
        elif path.is_dir():
            splits = load_dataset(str(path))
        elif source.count("/") != 1 or source.startswith((".", "/", "~")) or path.suffix in FORMATS:
            raise TrainingError(f"data set {source}: no such file or directory; {SCHEMA}")
        else:
            splits = load_dataset(source)
    except TrainingError:
        raise
    except Exception as error:  # datasets raises what its file readers and the Hub's client raise
        raise TrainingError(
            f"data set {source} cannot be loaded ({first_line(error)}): give --dataset a Hub id that can be reached, or a local "
            f"directory or file; {SCHEMA}; or run --preset quickstart, which needs no Hub"
        ) from error
    train = splits.get("train")
    test = next((splits[name] for name in ("validation", "test") if name in splits), None)
    if train is None:
        raise TrainingError(f"data set {source}: it has the splits {', '.join(splits)}; expected train, and validation or test")
    _check(train, source, "train")
    if test is None:
        train, test = _hold_out(train, source)
    _check(test, source, "test")
    return Splits(train, test)


def _check(split: Dataset, source: str, name: str) -> None:
    """Raise TrainingError for a missing column, an empty split, or the first row that is not in the schema."""
    where = f"data set {source}, split {name}"
    if missing := COLUMNS - set(split.column_names):
        columns = ", ".join(split.column_names)
        raise TrainingError(f"{where}: no column {', '.join(sorted(missing))} among {columns}; {SCHEMA}")
    if not len(split):
        raise TrainingError(f"{where}: it is empty; {SCHEMA}")
    answered = 0
    for at, row in enumerate(split.select_columns(sorted(COLUMNS)), start=1):
        for column in ("context", "question"):
            if not isinstance(row[column], str) or not row[column].strip():
                raise TrainingError(f"{where}, row {at}: {column} is {row[column]!r}; {SCHEMA}")
        texts = row["answers"].get("text") if isinstance(row["answers"], dict) else None
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise TrainingError(f"{where}, row {at}: answers is {row['answers']!r}; {SCHEMA}")
        answered += bool(texts)
    if not answered:
        raise TrainingError(f"{where}: no question has an answer; {SCHEMA}")


def _hold_out(rows: Dataset, source: str) -> tuple[Dataset, Dataset]:
    """A tenth of the contexts, at least one: those with the least hashes, wherever their rows stand."""
    ranked = sorted(set(rows["context"]), key=lambda context: hashlib.sha256(context.encode()).digest())
    if len(ranked) < 2:
        raise TrainingError(f"data set {source}: it has one context and no test split; expected another context to hold out")
    held = set(ranked[: max(1, len(ranked) // 10)])
    test = [at for at, context in enumerate(rows["context"]) if context in held]
    return rows.select(sorted(set(range(len(rows))) - set(test))), rows.select(test)
