"""Count words of any number in bounded memory: a table in a temporary database of SQLite."""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Self

AT_ONCE = 500_000
"""The number of distinct words that are counted before the counts are added to the table. They take about 150 bytes each."""
CACHE_KIB = 64 * 1024
"""The part of the table that SQLite keeps in memory. The rest is in a file of the directory for temporary files."""


class WordCounts:
    """The distinct words of a corpus, and how often each occurs. Close it after use."""

    def __init__(self, texts: Iterable[Iterable[str]], at_once: int = AT_ONCE) -> None:
        self._database = sqlite3.connect("", isolation_level=None)  # a temporary database, which no other process sees
        self._database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self._database.execute("PRAGMA journal_mode = OFF")
        # UTF-8 as bytes: text in SQLite cannot hold a lone surrogate. Bytes and strings have the same order.
        self._database.execute("CREATE TABLE words (word BLOB PRIMARY KEY, count INTEGER) WITHOUT ROWID")
        counts = Counter[str]()
        for words in texts:
            counts.update(words)
            if len(counts) >= at_once:
                self._add(counts)
                counts.clear()
        self._add(counts)

    def _add(self, counts: Counter[str]) -> None:
        rows = sorted((word.encode("utf-8", "surrogatepass"), count) for word, count in counts.items())  # neighbours share a page
        self._database.execute("BEGIN")
        self._database.executemany("INSERT INTO words VALUES (?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count", rows)
        self._database.execute("COMMIT")

    def __len__(self) -> int:
        """The number of distinct words."""
        ((number,),) = self._database.execute("SELECT count(*) FROM words")
        return int(number)

    def most_frequent(self, limit: int) -> list[tuple[str, int]]:
        """Return up to `limit` words with their counts, the most frequent first; ties are broken alphabetically."""
        rows = self._database.execute("SELECT word, count FROM words ORDER BY count DESC, word LIMIT ?", (limit,))
        return [(_decode(word), count) for word, count in rows]

    def __iter__(self) -> Iterator[str]:
        """Yield each distinct word once."""
        return (_decode(word) for (word,) in self._database.execute("SELECT word FROM words"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()


def _decode(word: bytes) -> str:
    return word.decode("utf-8", "surrogatepass")
