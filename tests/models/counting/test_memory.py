"""The bigram of a corpus takes memory for the model, not for the corpus."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.bigram import Bigram
from models.words import UNKNOWN
from tests.conftest import PROJECT
from tests.models.counting.corpus import COUNTED, WORDS_PER_TEXT, spell, write_corpus


@pytest.mark.parametrize(
    ("size", "limit", "at_once"),
    [
        pytest.param(6 * 10**6, 80, [100_000], id="6 MB"),
        pytest.param(2 * 10**9, 900, [], id="2 GB in 1 GB", marks=pytest.mark.slow),
    ],
)
def test_the_bigram_of_a_corpus_fits_into_limited_memory(size: int, limit: int, at_once: list[int], tmp_path: Path) -> None:
    """The limit is in megabytes, beside the 100 MB of the interpreter and NumPy."""
    corpus = tmp_path / "corpus.txt"
    command = [sys.executable, "-m", "tests.models.counting.corpus", str(corpus), str(limit), *map(str, at_once)]
    try:
        texts, expected = write_corpus(corpus, size)
        fitted = json.loads(subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.PIPE, text=True).stdout)
    finally:
        corpus.unlink()
    assert fitted["peak_megabytes"] < limit + 100
    assert fitted["bigrams"] == texts * (WORDS_PER_TEXT + 1)
    model = Bigram.load(tmp_path)
    ids = model.vocabulary.encode(f" {spell(rank)}" for rank in range(COUNTED))
    assert UNKNOWN not in ids
    found = [[model._count(first, second) for second in ids] for first in ids]
    np.testing.assert_array_equal(found, expected)
