"""Choose rows of a data set: samples, whole contexts, answerable questions."""

import numpy as np
from datasets import Dataset
from torch.utils.data import DataLoader

from training.data.squad import Row, Splits


def contexts(split: Dataset) -> list[str]:
    """The distinct contexts in the order of the data: the text that the word models learn."""
    return list(dict.fromkeys(split["context"]))


def draw(rows: Dataset, count: int | None, seed: int) -> Dataset:
    """`count` rows (or all) in an order drawn by `seed`: SQuAD is sorted by article, so its first rows are no sample."""
    shuffled = rows.shuffle(seed=seed)
    return shuffled if count is None else shuffled.select(range(min(count, len(shuffled))))


def split_contexts(rows: Dataset, count: int, seed: int) -> tuple[Dataset, Dataset]:
    """At most `count` rows, taken by whole contexts in an order drawn by `seed`, and the rows of all other contexts.

    Together, for questions that share their context are learned at once, and a context that is held out is held out whole. A first context
    with more questions than `count` is taken all the same.
    """
    places: dict[str, list[int]] = {}
    for at, context in enumerate(rows["context"]):
        places.setdefault(context, []).append(at)
    order = list(places.values())
    taken: list[int] = []
    for group in np.random.default_rng(seed).permutation(len(order)):
        if taken and len(taken) + len(order[group]) > count:
            break
        taken += order[group]
    return rows.select(sorted(taken)), rows.select(sorted(set(range(len(rows))) - set(taken)))


def answerable(rows: Dataset) -> Dataset:
    """The rows that have an answer."""
    return rows.select([at for at, answers in enumerate(rows["answers"]) if answers["text"]])


def describe_unanswered(splits: Splits) -> str:
    """How many rows have no answer, such as SQuAD 2.0's impossible questions, for the user; empty where all have one."""
    count = sum(len(split) - len(answerable(split)) for split in (splits.train, splits.test))
    return f" ({count:,} without an answer are left out)" if count else ""


def eval_loader(rows: Dataset, batch_size: int = 32) -> DataLoader[list[Row]]:
    """Test questions as lists of rows, the unanswerable ones left out."""
    return DataLoader(answerable(rows), batch_size=batch_size, collate_fn=list)
