"""The report of the load on two replicas: two tables in `runs/replicas/report.md`."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.conftest import PROJECT
from tests.replicas.traffic import MIX, Call, Outcome

REPORT = PROJECT / "runs/replicas/report.md"
OUTCOMES: tuple[Outcome, ...] = ("answered", "broken off", "failed")
COLUMNS = " | ".join(("requests", *OUTCOMES))


@dataclass
class Phases:
    """The phases, in their order: when each began (`time.monotonic`), and how many requests haproxy had sent again by then."""

    began: dict[str, float] = field(default_factory=dict)
    repeated: dict[str, int] = field(default_factory=dict)

    def begin(self, phase: str, now: float, repeated: int) -> None:
        """Take note that a phase begins."""
        self.began[phase], self.repeated[phase] = now, repeated

    def rows(self, calls: Iterable[Call]) -> list[str]:
        """Return a row for each phase but the last one, which only ends the load."""
        by_phase: dict[str, list[Call]] = defaultdict(list)
        for call in calls:
            by_phase[call.phase].append(call)
        names = list(self.began)
        return [
            f"| {name} | {self.began[following] - self.began[name]:.0f} s | {_counts(by_phase[name])} "
            f"| {self.repeated[following] - self.repeated[name]} | {len(versions(by_phase[name]))} |"
            for name, following in itertools.pairwise(names)
        ]


def _counts(calls: list[Call]) -> str:
    outcomes = Counter(call.outcome for call in calls)
    return " | ".join(f"{count:,}" for count in (len(calls), *(outcomes[outcome] for outcome in OUTCOMES)))


def versions(calls: Iterable[Call]) -> set[str]:
    """Return the versions of the LLM that answered."""
    return {tag for call in calls for tag in call.tags if tag.startswith("trigen-llm:")}


def write(phases: Phases, calls: list[Call]) -> None:
    """Write the report."""
    by_kind: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        by_kind[call.request.kind].append(call)
    rows = [
        f"| phase | duration | {COLUMNS} | repeated by haproxy | versions that answered |",
        "|---|---|---|---|---|---|---|---|",
        *phases.rows(calls),
        "",
        f"| request | {COLUMNS} | longest |",
        "|---|---|---|---|---|---|",
        *(_kind(kind.name, by_kind[kind.name]) for kind in MIX),
        _kind("all", calls),
        "",
        *(f"- {call.phase}, {call.request.kind}: {call.outcome}: {call.detail}" for call in calls if call.detail),
    ]
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text("\n".join(rows) + "\n")


def _kind(name: str, calls: list[Call]) -> str:
    longest = max((call.ended - call.started for call in calls), default=0)
    return f"| {name} | {_counts(calls)} | {longest:.1f} s |"
