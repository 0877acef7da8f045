"""The report of the load test: what was measured, compared with the goals, as a table and a plot in `runs/load/`."""

import dataclasses
import json
import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.client import quantile
from tests.load.client import CLIENTS, LOST, OVERLOAD, Load, Outcome
from tests.load.memory import Sample
from tests.load.mix import KINDS
from tests.load.probes import PROBES, Probed

MAX_PROBE_SECONDS = 0.05
MAX_OVERTIME = 1.0
"""Seconds by which an answer may come after its deadline: the last event and the way to the client, which shares the processors."""
MAX_MEMORY_CHANGE = 0.05
SETTLING_SECONDS = 60.0


@dataclass(frozen=True)
class Goal:
    """A goal, and whether it was reached."""

    name: str
    measured: str
    reached: bool

    def __str__(self) -> str:
        return f"{'PASS' if self.reached else 'FAIL'}  {self.name}: {self.measured}"


@dataclass(frozen=True)
class Measurement:
    """Everything that the load test measured."""

    capacity: float
    """Answers (200) per second of as many clients as the load has, each of which waits for its answer."""
    seconds: float
    load: Load
    many_texts: Load
    """The calls that generate 128 texts."""
    reproducible: Load
    """A second load, on a server with TRIGEN_REPRODUCIBLE."""
    probes: list[Probed]
    """During the load."""
    probes_beside_texts: list[Probed]
    """Beside one call that generates 128 texts with the LSTM."""
    memory: list[Sample]
    """During the load."""

    @property
    def started(self) -> float:
        """When the load began."""
        return min(outcome.started for outcome in self.load.outcomes)

    @property
    def settled_memory(self) -> list[int]:
        """The total memory in each second of the load after the first minute, or after half of a shorter load."""
        begin = self.started + min(SETTLING_SECONDS, self.seconds / 2)
        return [sample.total for sample in self.memory if begin < sample.time < self.started + self.seconds]

    def goals(self) -> list[Goal]:
        """Compare what was measured with the goals."""
        outcomes = [outcome for load in (self.load, self.many_texts, self.reproducible) for outcome in load.outcomes]
        errors = Counter(outcome.status for outcome in outcomes if outcome.status >= 500 and outcome.status != 504)
        lost = sum(outcome.status == LOST for outcome in outcomes)
        answered = {outcome.request.kind for outcome in self.load.outcomes if outcome.status == 200}
        unanswered = [kind.name for kind in KINDS if kind.name not in answered and not kind.timeout]
        return [
            Goal("no 5xx but 504", f"{dict(errors) or 'none'} of {len(outcomes):,} answers", not errors),
            Goal("no request is lost", f"{lost} of {len(outcomes):,}", not lost),
            _right("answers are those of lone runs", self.load),
            _right("128 texts are those of a lone run", self.many_texts),
            _right("answers are those of lone runs, with TRIGEN_REPRODUCIBLE", self.reproducible),
            Goal("every kind of request is answered", ", ".join(unanswered) or f"all {len(KINDS)}", not unanswered),
            _overtime(outcomes),
            _flat(self.settled_memory),
            *(_fast(f"{name} under load", name, self.probes) for name in PROBES),
            *(_fast(f"{name} beside 128 LSTM texts", name, self.probes_beside_texts) for name in PROBES),
        ]


def _right(name: str, load: Load) -> Goal:
    wrong = [f"{outcome.request.kind}: {outcome.error}" for outcome in load.outcomes if outcome.error]
    compared = sum(outcome.status == 200 for outcome in load.outcomes)
    return Goal(name, f"{len(wrong)} wrong of {compared:,}" + "".join(f"\n      {line}" for line in wrong[:5]), not wrong)


def _overtime(outcomes: list[Outcome]) -> Goal:
    admitted = [outcome for outcome in outcomes if outcome.status in (200, 504)]
    overtime, kind = max((outcome.seconds - outcome.request.limit, outcome.request.kind) for outcome in admitted)
    measured = f"the latest answer came {overtime:.2f} s after its deadline ({kind})"
    return Goal(f"admitted requests end within their deadline, and {MAX_OVERTIME:g} s", measured, overtime < MAX_OVERTIME)


def _flat(totals: list[int]) -> Goal:
    median = statistics.median(totals)
    low, high = min(totals) / median - 1, max(totals) / median - 1
    measured = f"{low:+.1%} to {high:+.1%} around {median / 1e6:,.0f} MB"
    return Goal(f"memory is flat within {MAX_MEMORY_CHANGE:.0%} after a minute", measured, max(high, -low) <= MAX_MEMORY_CHANGE)


def _fast(title: str, name: str, probes: list[Probed]) -> Goal:
    answers = [probe for probe in probes if probe.name == name]
    seconds = [probe.seconds for probe in answers]
    failed = sum(probe.status != 200 for probe in answers)
    p50, p99 = quantile(seconds, 50), quantile(seconds, 99)
    measured = f"p50 {1e3 * p50:.1f} ms, p99 {1e3 * p99:.1f} ms, max {1e3 * max(seconds):.1f} ms; {failed} of {len(answers)} failed"
    return Goal(f"{title}: p99 below {1e3 * MAX_PROBE_SECONDS:.0f} ms", measured, p99 < MAX_PROBE_SECONDS and not failed)


def write(measurement: Measurement, directory: Path) -> str:
    """Write report.md, report.json and report.png to `directory`; return the text."""
    directory.mkdir(parents=True, exist_ok=True)
    goals = measurement.goals()
    text = _text(measurement, goals)
    (directory / "report.md").write_text(text)
    details = {
        "capacity": measurement.capacity,
        "seconds": measurement.seconds,
        "goals": [dataclasses.asdict(goal) for goal in goals],
        "probes": [dataclasses.asdict(probe) for probe in measurement.probes],
        "probes_beside_texts": [dataclasses.asdict(probe) for probe in measurement.probes_beside_texts],
        "memory": [dataclasses.asdict(sample) for sample in measurement.memory],
        "outcomes": [dataclasses.asdict(outcome) | {"request": outcome.request.kind} for outcome in measurement.load.outcomes],
    }
    (directory / "report.json").write_text(json.dumps(details))
    _plot(measurement, directory / "report.png")
    return text


def _text(measurement: Measurement, goals: list[Goal]) -> str:
    outcomes = measurement.load.outcomes
    by_kind: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_kind[outcome.request.kind].append(outcome)
    rows = [_row(kind.name, by_kind[kind.name]) for kind in KINDS] + [_row("all", outcomes)]
    lates = [probe.late for probe in measurement.probes]
    return "\n".join(
        [
            f"Capacity with {CLIENTS} clients: {measurement.capacity:.0f} answers/s. Offered: {OVERLOAD:g} times as many requests for "
            f"{measurement.seconds:.0f} s, in up to {CLIENTS} clients; {measurement.load.turned_away:,} requests found no free client.",
            f"The probes' own process was up to {1e3 * max(lates):.0f} ms late (p99 {1e3 * quantile(lates, 99):.0f} ms).",
            "",
            *map(str, goals),
            "",
            "| request | sent | 200 | 429 | 504 | other | p50 s | p99 s |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _row(name: str, outcomes: list[Outcome]) -> str:
    statuses = Counter(outcome.status if outcome.status in (200, 429, 504) else 0 for outcome in outcomes)
    seconds = [outcome.seconds for outcome in outcomes if outcome.status == 200]
    counts = " | ".join(f"{count:,}" for count in (len(outcomes), *(statuses[status] for status in (200, 429, 504, 0))))
    return f"| {name} | {counts} | {quantile(seconds, 50):.3f} | {quantile(seconds, 99):.3f} |"


def _plot(measurement: Measurement, file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    begin = measurement.started
    figure, (latency, answers, memory) = pyplot.subplots(3, 1, figsize=(10, 9), sharex=True, layout="constrained")
    for name in PROBES:
        probes = [probe for probe in measurement.probes if probe.name == name]
        latency.plot([probe.sent - begin for probe in probes], [1e3 * probe.seconds for probe in probes], ".", markersize=3, label=name)
    latency.axhline(1e3 * MAX_PROBE_SECONDS, color="grey", linestyle="--", label="goal (p99)")
    latency.set(yscale="log", ylabel="latency of probes (ms)")
    latency.legend(loc="upper right")
    for status in (200, 429, 504):
        per_second = Counter(int(o.started + o.seconds - begin) for o in measurement.load.outcomes if o.status == status)
        seconds = range(max(per_second, default=0) + 1)
        answers.plot(seconds, [per_second[second] for second in seconds], label=str(status))
    answers.set(ylabel="answers per second", yscale="symlog")
    answers.legend(loc="upper right")
    samples = [sample for sample in measurement.memory if begin < sample.time < begin + measurement.seconds]
    for pid in sorted({pid for sample in samples for pid in sample.by_process}):
        points = [(sample.time - begin, sample.by_process[pid] / 1e6) for sample in samples if pid in sample.by_process]
        memory.plot(*zip(*points, strict=True), linewidth=0.8, label=f"process {pid}")
    memory.plot([sample.time - begin for sample in samples], [sample.total / 1e6 for sample in samples], "k", label="all")
    memory.set(ylabel="resident memory (MB)", xlabel="seconds of load", ylim=(0, None))
    memory.legend(loc="center right", fontsize="small")
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
