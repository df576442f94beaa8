"""The ten tasks by their names."""

import pytest

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.catalogue import TASKS, find_task


def test_the_ten_tasks_are_there_with_consistent_constants():
    assert list(TASKS) == "pr asr ks qbe sid sv sd ic sf er".split()
    for task in TASKS.values():
        assert task.corpus and task.corpus_keys and task.corpus_source.split()[-1].startswith("http")
        for metric in task.metrics:
            for sota in (metric.sota_paper, metric.sota_leaderboard):
                assert (sota > metric.fbank) == (metric.better == "up")


def test_a_task_is_found_by_its_short_name_and_by_s3prls():
    assert find_task("ks") is find_task("speech_commands") is TASKS["ks"]
    assert find_task("asr") is TASKS["asr"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("speech_command", "no such SUPERB task. Did you mean `speech_commands`?"),
        ("ASR", "Did you mean `asr`?"),
        ("translation", "The ten are: pr, asr, ks, qbe, sid, sv, sd, ic, sf, er."),
        ("ctc", r"-d ctc serves two tasks. Give -d pr \(phoneme recognition\) or -d sf \(slot filling\)"),
    ],
)
def test_an_unknown_name_names_the_nearest(name, message):
    with pytest.raises(UserError, match=message):
        find_task(name)
