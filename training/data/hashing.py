"""Hashes of texts: they choose rows and group them by text, while the texts stay on disk."""

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def text_hash(text: str) -> int:
    """Return a hash of a text below 2⁶⁴, the same in every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def hash_texts(texts: Iterable[str]) -> NDArray[np.uint64]:
    """Return the hash of each text. Ten million texts have two of the same hash with a probability of 3 in a million."""
    return np.fromiter(map(text_hash, texts), np.uint64)


def is_chosen(text: str, share: float) -> bool:
    """Choose a `share` of all texts by their hash, so that every run chooses the same ones, whatever their order."""
    return text_hash(text) < share * 2**64


def group_rows(texts: Iterable[str]) -> list[NDArray[np.int64]]:
    """Return the rows of each distinct text, in the order of their first rows."""
    hashes = hash_texts(texts)
    order = np.argsort(hashes, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(hashes[order])) + 1) if len(order) else []
    return sorted(groups, key=lambda rows: int(rows[0]))
