"""Load and check question-answering data in SQuAD's schema, from the Hub or from local files."""

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from datasets import Dataset, DatasetDict, load_dataset, load_dataset_builder

from training.data.formats import read_files
from training.data.hashing import hash_texts
from training.errors import TrainingError, first_line

COLUMNS = {"context", "question", "answers"}
SCHEMA = (
    "expected SQuAD's schema, one row per question: context (text), question (text), answers {text: [text, …]} "
    "(in CSV: answers as JSON, or answer as text); or SQuAD's nested JSON"
)
FORMATS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv"}


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
    """The training and test questions of a data set. If `load_splits` holds the test questions out itself, no context is in both."""

    train: Dataset
    test: Dataset

    @functools.cached_property
    def description(self) -> dict[str, Any]:
        """The row counts and a fingerprint of the content, for the models' metadata. The first access reads all rows."""
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
    """Load a data set from a Hub id, a directory or a file. Local files may also be SQuAD's nested JSON or CSV.

    The test split is `validation` or `test`. If there is neither, a tenth of the contexts is held out. Raises
    TrainingError if the source cannot be loaded, a split or a column is missing, or a row does not match the schema.
    """
    try:
        splits = _load(source)
    except TrainingError:
        raise
    except Exception as error:  # datasets passes on any exception of its file readers and of the Hub's client
        raise TrainingError(
            f"data set {source} cannot be loaded ({first_line(error)}): give --dataset the id of a Hub data set, or a local "
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


def _load(source: str) -> DatasetDict:
    """Load all splits of `source`.

    Raises TrainingError if it is neither a Hub id nor a directory nor a readable file, or if a file of nested JSON or CSV is malformed,
    and any exception that `datasets` raises.
    """
    path = Path(source).expanduser()
    if path.is_file():
        if not path.stat().st_size:
            raise TrainingError(f"data set {source}: the file is empty; {SCHEMA}")
        if path.suffix not in FORMATS:
            raise TrainingError(f"data set {source}: cannot read {path.suffix or 'this file'}; expected {', '.join(FORMATS)}")
        files = {"train": [str(path)]}
        return read_files(files) or load_dataset(FORMATS[path.suffix], data_files=files)
    if path.is_dir():
        # The builder tells splits by the names of the files, such as train-v2.0.json and dev-v2.0.json.
        return read_files(load_dataset_builder(str(path)).config.data_files) or load_dataset(str(path))
    if source.count("/") != 1 or source.startswith((".", "/", "~")) or path.suffix in FORMATS:
        raise TrainingError(f"data set {source}: no such file or directory; {SCHEMA}")
    return load_dataset(source)


def _check(split: Dataset, source: str, name: str) -> None:
    """Raise TrainingError if a column is missing, the split is empty, a row does not match the schema, or no row has an answer."""
    where = f"data set {source}, split {name}"
    if missing := COLUMNS - set(split.column_names):
        columns = ", ".join(split.column_names)
        raise TrainingError(f"{where}: no column {', '.join(sorted(missing))} among {columns}; {SCHEMA}")
    if not len(split):
        raise TrainingError(f"{where}: it is empty; {SCHEMA}")
    answered = 0
    for number, row in enumerate(split.select_columns(sorted(COLUMNS)), start=1):
        for column in ("context", "question"):
            if not isinstance(row[column], str) or not row[column].strip():
                raise TrainingError(f"{where}, row {number}: {column} is {row[column]!r}; {SCHEMA}")
        texts = row["answers"].get("text") if isinstance(row["answers"], dict) else None
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise TrainingError(f"{where}, row {number}: answers is {row['answers']!r}; {SCHEMA}")
        answered += bool(texts)
    if not answered:
        raise TrainingError(f"{where}: no question has an answer; {SCHEMA}")


def _hold_out(rows: Dataset, source: str) -> tuple[Dataset, Dataset]:
    """Hold out a tenth of the contexts, at least one, as test rows. Returns the training rows and the test rows.

    The contexts with the smallest hashes are held out, so the order of the rows does not matter.
    """
    hashes = hash_texts(rows["context"])
    ranked = np.unique(hashes)
    if len(ranked) < 2:
        raise TrainingError(f"data set {source}: it has one context and no test split; expected at least two contexts")
    first_kept = ranked[max(1, len(ranked) // 10)]
    return rows.select(np.flatnonzero(hashes >= first_kept)), rows.select(np.flatnonzero(hashes < first_kept))
