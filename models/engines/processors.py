"""Which processors a worker and its engines run on, where a service has several workers."""

import os
from pathlib import Path

TOPOLOGY = Path("/sys/devices/system/cpu")


def confine(worker: int, workers: int) -> None:
    """Confine this process, and the engines that it starts, to its share of the cores. `worker` counts from 1.

    Engines choose as many threads as they see processors, so those of several workers would wait for one another. The cores of a share
    have adjacent numbers, because such cores mostly share a cache and the memory next to it. With fewer cores than workers, all workers use
    all cores.
    """
    all_cores = cores()
    if workers < 2 or len(all_cores) < workers:
        return
    index = (worker - 1) % workers  # while a worker is being replaced, its successor may have a number beyond `workers`
    share = all_cores[index * len(all_cores) // workers : (index + 1) * len(all_cores) // workers]
    os.sched_setaffinity(0, set().union(*share))


def cores() -> list[set[int]]:
    """Return the processors that this process may use, in sets that are a core each."""
    allowed = os.sched_getaffinity(0)
    by_siblings: dict[str, set[int]] = {}
    for processor in sorted(allowed):
        siblings = TOPOLOGY / f"cpu{processor}/topology/thread_siblings_list"
        by_siblings.setdefault(siblings.read_text() if siblings.exists() else str(processor), set()).add(processor)
    return list(by_siblings.values())
