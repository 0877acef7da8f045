"""The table of faults in `docs/reliability.md`: `python -m tests.faults.table` writes it from what the tests have measured.

With `--tests`, it prints the ids of the tests instead.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.conftest import PROJECT

RECORDS = PROJECT / "runs/faults"
DOCUMENT = PROJECT / "docs/reliability.md"
BEGIN, END = "<!-- table: make test-faults -->", "<!-- end of the table -->"
HEADER = "| fault | promise | gap | others | lost | test |\n|---|---|---|---|---|---|\n"


@dataclass(frozen=True)
class Row:
    """A fault, what the service promises, and the test that injects it."""

    fault: str
    promise: str
    test: str
    measures: str = ""
    """What the gap is, if it is not the time without an answer."""


ENGINES, WORKER, CLIENTS = "tests/faults/test_engines.py", "tests/faults/test_worker.py", "tests/faults/test_clients.py"
REPLACED = "replaced in place; only streams that had begun are lost, each with a last event `error`"
ROWS = [
    Row("none, for comparison", "", f"{ENGINES}::test_without_a_fault"),
    Row("LLM's engine killed", f"{REPLACED}; the next answer within 10 s", f"{ENGINES}::test_an_engine_is_replaced[llm-killed]"),
    Row("LSTM's engine killed", REPLACED, f"{ENGINES}::test_an_engine_is_replaced[rnn-killed]"),
    Row("LLM's engine hangs", f"{REPLACED}; noticed after 2 s, by setting", f"{ENGINES}::test_an_engine_is_replaced[llm-hung]"),
    Row("LSTM's engine hangs", f"{REPLACED}; noticed after 2 s, by setting", f"{ENGINES}::test_an_engine_is_replaced[rnn-hung]"),
    Row("LLM's engine gets no more memory", REPLACED, f"{ENGINES}::test_an_engine_without_memory_is_replaced"),
    Row(
        "LLM's engine killed at each start",
        "after five failures in a row its requests get 503 at once, and the worker exits with status 70 and is replaced",
        f"{ENGINES}::test_an_engine_that_cannot_start_ends_the_worker_with_status_70",
    ),
    Row("worker killed", "replaced; requests in progress are lost, new ones wait", f"{WORKER}::test_a_killed_worker_is_replaced"),
    Row(
        "SIGTERM under load",
        "`/readyz` fails; all accepted requests end; exit status 0",
        f"{WORKER}::test_sigterm_loses_no_request",
        "to exit",
    ),
    Row(
        "clients leave their streams",
        "nothing is left in any model; the others lose nothing",
        f"{CLIENTS}::test_clients_leave_their_streams",
    ),
    Row("200 clients send headers slowly", "408; the others lose nothing", f"{CLIENTS}::test_slow_clients_are_closed[slow-headers]"),
    Row("200 clients send bodies slowly", "408; the others lose nothing", f"{CLIENTS}::test_slow_clients_are_closed[slow-body]"),
    Row("200 clients send half a body", "408; the others lose nothing", f"{CLIENTS}::test_slow_clients_are_closed[half-a-body]"),
    Row(
        "store emptied, both engines killed",
        "goes on, and replaces its engines from the files that it keeps open",
        f"{WORKER}::test_the_store_is_emptied_and_both_engines_are_killed",
    ),
    Row("clock set a day ahead, then a day back", "not noticed: every timeout uses the monotonic clock", f"{WORKER}::test_the_clock_jumps"),
    Row(
        "damaged or truncated artifact",
        "the start ends with one line that names the model and the file",
        "tests/test_service.py::test_a_damaged_model_stops_the_start_with_one_line",
    ),
    Row(
        "disk full, or `kill -9`, while registering",
        "all three models or none; the store stays whole",
        "tests/models/store/test_registration.py::test_a_fault_at_any_file_operation_leaves_the_store_whole",
    ),
]


def write_record(test: str, **measured: Any) -> None:
    """Keep what a test has measured: `gap`, in seconds, and perhaps that of the `others`; `lost` by kind; `requests`, their number."""
    RECORDS.mkdir(parents=True, exist_ok=True)
    (RECORDS / _file_name(test)).write_text(json.dumps(measured, indent=2) + "\n")


def read_record(test: str) -> dict[str, Any]:
    """Return what a test has measured; nothing if it involves no running service."""
    path = RECORDS / _file_name(test)
    measured: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return measured


def _file_name(test: str) -> str:
    return test.rpartition("::")[2].replace("[", "-").removesuffix("]") + ".json"


def first_cells(row: Row) -> str:
    """Return the beginning of a row, which does not depend on what is measured."""
    return f"| {row.fault} | {row.promise} |"


def last_cell(row: Row) -> str:
    return f"| `{row.test}` |"


def render(records: Mapping[str, dict[str, Any]]) -> str:
    """Return the table, with what the tests have measured."""
    return HEADER + "".join(f"{first_cells(row)} {_cells(row, records[row.test])} {last_cell(row)}\n" for row in ROWS)


def _cells(row: Row, measured: dict[str, Any]) -> str:
    if not measured:
        return "not measured | – | –" if row.test.startswith("tests/faults/") else "– | – | –"
    others = measured.get("others")
    lost = measured.get("lost", {})
    kinds = ", ".join(f"{count} {kind.replace(', streamed', ' stream')}" for kind, count in sorted(lost.items()))
    of = f"{sum(lost.values()):,} of {measured['requests']:,}" + (f" ({kinds})" if kinds else "")
    return f"{measured['gap']:.1f} s {row.measures}".strip() + f" | {'–' if others is None else f'{others:.1f} s'} | {of}"


def main() -> None:
    """Write the table into the document."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    table = render({row.test: read_record(row.test) for row in ROWS})
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{table}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    if sys.argv[1:] == ["--tests"]:
        print(*(row.test for row in ROWS))  # noqa: T201
    else:
        main()
