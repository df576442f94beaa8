"""A progress bar in a file writes a line now and then, not one a step."""

import io

import pytest

from s3prl_pruned import progress as module
from s3prl_pruned.progress import progress


class Clock:
    """Seconds that pass only when told."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("tqdm.std.time", clock)
    monkeypatch.setattr("tqdm.std.tqdm.monitor_interval", 0)  # its thread looks at the true time
    return clock


def lines_of(steps, seconds, clock, file):
    with progress(total=steps, file=file, unit="step") as bar:
        for _ in range(steps):
            clock.now += seconds
            bar.set_postfix_str("loss 1.5", refresh=False)
            bar.update()
    return file.getvalue()


def test_in_a_file_a_bar_writes_a_line_a_minute_at_most(clock):
    assert module.SECONDS_BETWEEN_LINES == 60
    written = lines_of(3000, 0.5, clock, io.StringIO())  # 25 minutes
    assert "\r" not in written
    lines = written.splitlines()
    assert 5 <= len(lines) <= 2 + 25, "one at the start and one at the end, and between them one a minute at most"
    assert "0/3000" in lines[0] and "3000/3000" in lines[-1] and "loss 1.5" in lines[-1] and all(lines)


def test_slow_steps_write_no_more_often_than_they_come(clock):
    assert len(lines_of(4, 300, clock, io.StringIO()).splitlines()) <= 6


def test_a_short_one_writes_where_it_begins_and_ends(clock):
    assert len(lines_of(500, 0.01, clock, io.StringIO()).splitlines()) == 2


def test_on_a_terminal_it_is_tqdms_own(clock):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    written = lines_of(100, 0.5, clock, terminal)
    assert written.count("\r") > 50 and written.count("\n") == 1


def test_an_iterable_is_passed_through(clock):
    assert list(progress([1, 2, 3], file=io.StringIO(), desc="three", delay=5)) == [1, 2, 3]
