"""Progress in a log, with a clock that stands still until a test moves it."""

import sys

import pytest
import tqdm.std

from training.progress import LOG_SECONDS, progress_bar


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(tqdm.std, "time", clock)
    return clock


def test_a_log_gets_a_whole_line_every_half_minute_and_a_last_one(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(total=100, desc="evaluating") as bar:
        for done in range(100):
            clock.now += 1
            bar.update()
            bar.set_postfix(f1=done)  # redraws a bar on a terminal
    lines = capsys.readouterr().err.splitlines(keepends=True)
    assert [line.split("%")[0].split()[-1] for line in lines] == ["30", "60", "90", "100"]
    assert all(line.startswith("evaluating") and line.endswith("\n") and "\r" not in line for line in lines)


def test_a_bar_inside_another_prints_whole_lines_too(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(total=1, desc="outer") as outer:
        for _ in progress_bar(range(2), desc="inner", leave=False, delay=2):
            clock.now += LOG_SECONDS
        outer.update()
    lines = capsys.readouterr().err.splitlines(keepends=True)
    assert [line.split(":")[0] for line in lines] == ["inner", "inner", "inner", "outer", "outer"]
    assert not any("\r" in line or "\x1b" in line for line in lines)


def test_short_work_and_disabled_bars_print_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    for disable in (False, True):
        with progress_bar(total=1.0, disable=disable) as bar:
            clock.now += LOG_SECONDS * (2 if disable else 0.9)
            bar.update(1.0)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_plain_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress_bar(total=1, disable=True) as bar:
        assert type(bar) is tqdm.std.tqdm
