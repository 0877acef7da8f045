"""Select rows of a data set: random samples, whole contexts, answerable questions."""

import hashlib
from collections.abc import Iterable

import numpy as np
from datasets import Dataset
from torch.utils.data import DataLoader

from training.data.squad import Row, Splits


def contexts(split: Dataset) -> list[str]:
    """Return the distinct contexts in the order of the data. The word models train on this text."""
    return list(dict.fromkeys(split["context"]))


def index_contexts(contexts: Iterable[str]) -> dict[str, list[int]]:
    """Map each context to the indices of its rows. Contexts are in the order of their first row."""
    indices: dict[str, list[int]] = {}
    for index, context in enumerate(contexts):
        indices.setdefault(context, []).append(index)
    return indices


def draw(rows: Dataset, count: int | None, seed: int) -> Dataset:
    """Return up to `count` rows (all if None) in a random order.

    SQuAD is sorted by article, so its first rows are not a sample.
    """
    shuffled = rows.shuffle(seed=seed)
    return shuffled if count is None else shuffled.select(range(min(count, len(shuffled))))


def split_contexts(rows: Dataset, count: int, seed: int) -> tuple[Dataset, Dataset]:
    """Split `rows` into whole contexts drawn at random, up to `count` rows in all, and the remaining rows.

    Contexts stay whole because questions about the same context are trained together, and because a held-out context must
    not be trained on. The first context drawn is taken even if it alone has more than `count` rows.
    """
    groups = list(index_contexts(rows["context"]).values())
    order = np.random.default_rng(seed).permutation(len(groups))
    return _take([groups[number] for number in order], rows, count)


def split_articles(rows: Dataset, count: int, seed: int) -> tuple[Dataset, Dataset]:
    """Split `rows` as `split_contexts` does, but into whole articles if the data names them (`title`) and any is small enough.

    Articles with unanswerable questions are taken first, since only such questions show whether a model knows when it does not know. The
    smallest are taken first: articles differ in how well their questions can be answered, so that many of them say more than a few.
    """
    if "title" not in rows.column_names:
        return split_contexts(rows, count, seed)
    groups = [group for group in index_contexts(rows["title"]).values() if len(group) <= count]
    if not groups:
        return split_contexts(rows, count, seed)
    answers = rows["answers"]
    return _take(sorted(groups, key=lambda group: (all(answers[row]["text"] for row in group), len(group))), rows, count)


def _take(groups: list[list[int]], rows: Dataset, count: int) -> tuple[Dataset, Dataset]:
    """Split `rows` into the first `groups`, up to `count` rows in all but at least one group, and the remaining rows."""
    taken: list[int] = []
    for group in groups:
        if taken and len(taken) + len(group) > count:
            break
        taken += group
    return rows.select(sorted(taken)), rows.select(sorted(set(range(len(rows))) - set(taken)))


def answerable(rows: Dataset) -> Dataset:
    """Return the rows that have an answer."""
    return rows.select([index for index, answers in enumerate(rows["answers"]) if answers["text"]])


def describe_unanswered(splits: Splits) -> str:
    """Return a note for the user about the unanswerable questions (SQuAD 2.0 has such); empty if there are none."""
    count = sum(len(split) - len(answerable(split)) for split in (splits.train, splits.test))
    return f" ({count:,} of them unanswerable)" if count else ""


def eval_loader(rows: Dataset, batch_size: int = 32) -> DataLoader[list[Row]]:
    """Return a loader that yields the rows as lists of up to `batch_size`."""
    return DataLoader(rows, batch_size=batch_size, collate_fn=list)


def is_chosen(text: str, share: float) -> bool:
    """Choose a `share` of all texts by their hash, so that every run chooses the same ones, whatever their order."""
    return text_hash(text) < share * 2**64


def text_hash(text: str) -> int:
    """Return a hash of a text below 2⁶⁴, the same in every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
