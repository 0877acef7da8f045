"""Select rows of a data set: random samples, whole contexts, answerable questions."""

import numpy as np
from datasets import Column, Dataset
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from training.data.hashing import group_rows
from training.data.squad import Row, Splits


def contexts(split: Dataset) -> Column:
    """Return the distinct contexts in the order of the data, on which the word models train. They are read from disk whenever used."""
    return split.select([rows[0] for rows in group_rows(split["context"])])["context"]


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
    groups = group_rows(rows["context"])
    order = np.random.default_rng(seed).permutation(len(groups))
    return _take([groups[number] for number in order], rows, count)


def split_articles(rows: Dataset, count: int, seed: int) -> tuple[Dataset, Dataset]:
    """Split `rows` as `split_contexts` does, but into whole articles if the data names them (`title`) and any is small enough.

    Articles with unanswerable questions are taken first, since only such questions show whether a model knows when it does not know. The
    smallest are taken first: articles differ in how well their questions can be answered, so that many of them say more than a few.
    """
    if "title" not in rows.column_names:
        return split_contexts(rows, count, seed)
    groups = [group for group in group_rows(rows["title"]) if len(group) <= count]
    if not groups:
        return split_contexts(rows, count, seed)
    answered = has_answer(rows)
    return _take(sorted(groups, key=lambda group: (bool(answered[group].all()), len(group))), rows, count)


def _take(groups: list[NDArray[np.int64]], rows: Dataset, count: int) -> tuple[Dataset, Dataset]:
    """Split `rows` into the first `groups`, up to `count` rows in all but at least one group, and the remaining rows."""
    taken = np.zeros(len(rows), bool)
    number = 0
    for group in groups:
        if number and number + len(group) > count:
            break
        taken[group] = True
        number += len(group)
    return split_rows(rows, taken)


def split_rows(rows: Dataset, chosen: NDArray[np.bool_]) -> tuple[Dataset, Dataset]:
    """Split `rows` into the chosen ones and all others."""
    return rows.select(np.flatnonzero(chosen)), rows.select(np.flatnonzero(~chosen))


def has_answer(rows: Dataset) -> NDArray[np.bool_]:
    """Return whether each row has an answer."""
    return np.fromiter((bool(answers["text"]) for answers in rows["answers"]), bool)


def answerable(rows: Dataset) -> Dataset:
    """Return the rows that have an answer."""
    return rows.select(np.flatnonzero(has_answer(rows)))


def describe_unanswered(splits: Splits) -> str:
    """Return a note for the user about the unanswerable questions (SQuAD 2.0 has such); empty if there are none."""
    count = sum(len(split) - len(answerable(split)) for split in (splits.train, splits.test))
    return f" ({count:,} of them unanswerable)" if count else ""


def eval_loader(rows: Dataset, batch_size: int = 32) -> DataLoader[list[Row]]:
    """Return a loader that yields the rows as lists of up to `batch_size`."""
    return DataLoader(rows, batch_size=batch_size, collate_fn=list)
