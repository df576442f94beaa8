"""Plans: consistency, and the remaining time."""

from pathlib import Path

import pytest

from s3prl_pruned.config import UserError
from s3prl_pruned.plan.jobs import Job, duration, levels, remaining_seconds
from s3prl_pruned.plan.run import run
from tests.planned_jobs import job

pytestmark = pytest.mark.usefixtures("folder")


@pytest.mark.parametrize(
    "jobs, complaint",
    [
        (lambda: [job("a"), job("a")], "name must differ between jobs, but 'a'"),
        (lambda: [job("a"), job("b", done=False), job("c", after=("b",))], "waits for 'b', which has no `done` file"),
        (lambda: [job("a", after=("z",))], "a waits for 'z', which is not in the plan"),
        (lambda: [job("a", after=("b",)), job("b", after=("a",))], "in a circle"),
    ],
)
def test_an_inconsistent_plan_is_refused_before_anything_runs(jobs, complaint):
    with pytest.raises(UserError, match=complaint):
        run(jobs())
    assert not Path("order").exists()


def test_two_jobs_that_would_write_one_file_are_refused():
    one = job("one")
    with pytest.raises(UserError, match="done must differ"):
        levels([one, job("two", done=False), Job(name="other", command=("x",), log=Path("l"), done=one.done)])


def test_remaining_time_follows_the_times_of_finished_jobs():
    slow, fast, unknown = (
        Job(name=n, command=(), log=Path("l"), seconds=s) for n, s in (("s", 100), ("f", 10), ("u", None))
    )
    assert remaining_seconds([(slow, 0), (fast, 0)], [], parallel=1) == 110
    assert remaining_seconds([(slow, 40), (fast, 0)], [(fast, 20)], parallel=1) == 160 + 20  # twice the estimate
    assert remaining_seconds([(slow, 0), (fast, 0)], [], parallel=2) == 100  # not less than the longest
    assert remaining_seconds([(unknown, 5)], [(slow, 60), (slow, 20)], parallel=1) == 35
    assert remaining_seconds([(unknown, 0)], [], parallel=1) is None
    assert remaining_seconds([(fast, 99)], [], parallel=1) == 0
    assert [duration(s) for s in (45, 720, 11100, 187200)] == ["45 s", "12 min", "3 h 5 min", "2 d 4 h"]
