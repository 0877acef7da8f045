import itertools
import tracemalloc
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.counting.keys import count_keys

PARTS = st.lists(st.lists(st.integers(0, 30) | st.integers(0, 2**62), max_size=20), max_size=20)


@given(PARTS, st.integers(1, 50))
def test_the_merged_runs_hold_each_key_once_with_its_count(parts: list[list[int]], at_once: int) -> None:
    blocks = list(count_keys([np.array(part, np.int64) for part in parts], at_once))
    found = [pair for block in blocks for pair in zip(*map(np.ndarray.tolist, block), strict=True)]
    assert found == sorted(Counter(itertools.chain(*parts)).items())


def test_the_memory_does_not_grow_with_the_keys() -> None:
    generator = np.random.default_rng(0)

    def peak(parts: int) -> int:
        tracemalloc.start()
        distinct = sum(len(keys) for keys, _ in count_keys((generator.integers(0, 2**40, 1000) for _ in range(parts)), at_once=20_000))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert distinct > 900 * parts
        return peak

    assert peak(400) < 1.2 * peak(100)
