"""The comparison of upstreams: what is chosen, and what its intervals mean."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.upstream_comparison.comparison import (
    Outcome,
    Trial,
    chosen_rate,
    compare,
    dev_curve,
    plan,
    relative_difference,
    run_trials,
    table,
)  # fmt: skip
from benchmarks.upstream_comparison.costs import costs
from s3prl_pruned.config import UserError
from s3prl_pruned.plan.models import ComparedModel


def errors(seeds=1, utterances=50, rate=0.3, seed=0):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(10, 60, size=utterances)
    return generator.binomial(lengths, rate, size=(seeds, utterances)), lengths


def outcome(model, rate, seed, dev_error):
    return Outcome(model, rate, seed, dev_error, 100, 200, cer=50.0, wer=90.0, checkpoint_rule="", sha256=None)


def test_half_the_errors_everywhere_is_minus_50_percent_without_spread():
    baseline, lengths = errors()
    change, lower, upper = relative_difference(baseline / 2, baseline, lengths)
    assert (change, lower, upper) == pytest.approx((-0.5, -0.5, -0.5))


def test_two_equal_upstreams_are_not_told_apart_and_a_much_better_one_is():
    one, lengths = errors(seeds=3, seed=1)
    two, _ = errors(seeds=3, seed=2)
    two = np.minimum(two, lengths)
    _, lower, upper = relative_difference(one, two, lengths)
    assert lower < 0 < upper
    change, lower, upper = relative_difference(one * 0.6, two, lengths)
    assert lower < change < upper < 0


def test_the_interval_agrees_with_scipys_paired_bootstrap():
    baseline, lengths = errors(seed=3)
    edits, _ = errors(rate=0.2, seed=4)

    def change(a, b, axis):
        return a.sum(axis) / b.sum(axis) - 1

    interval = stats.bootstrap(
        (edits[0], baseline[0]), change, paired=True, vectorized=True, method="percentile", n_resamples=10_000, rng=5
    ).confidence_interval
    _, lower, upper = relative_difference(edits, baseline, lengths)
    # 10,000 replicates: the standard error of a 2.5 % quantile is about 0.05 standard deviations of the statistic
    tolerance = 0.2 * (interval.high - interval.low) / 3.92
    assert lower == pytest.approx(interval.low, abs=tolerance)
    assert upper == pytest.approx(interval.high, abs=tolerance)


def test_more_seeds_are_averaged_and_number_of_seeds_need_not_be_equal():
    baseline, lengths = errors(seeds=2, seed=6)
    change, _, _ = relative_difference(np.repeat(baseline, 2, axis=0), baseline, lengths)
    assert change == pytest.approx(0)


def test_the_learning_rate_is_chosen_by_the_mean_dev_error_of_its_seeds():
    outcomes = [
        *(outcome("a", 1e-3, seed, error) for seed, error in ((1, 20.0), (2, 40.0))),
        *(outcome("a", 2e-3, seed, error) for seed, error in ((1, 29.0), (2, 29.0))),
        outcome("b", 5e-4, 1, 1.0),
    ]
    assert chosen_rate(outcomes, "a") == 2e-3


def test_dev_errors_are_read_off_what_s3prl_prints():
    log = "dev-clean loss: 3.1\ndev-clean uer: 80.5\ndev-clean wer: 100.0\ntrain uer: 1.0\ndev-clean uer: 41.25\n"
    assert dev_curve(log, interval=100) == {100: 80.5, 200: 41.25}
    with pytest.raises(UserError, match="no evaluation on dev-clean"):
        dev_curve("nothing", interval=100)


def test_the_plan_brings_all_first_seeds_first_and_types_what_a_user_would():
    trials = plan(
        [ComparedModel("fbank", "fbank"), ComparedModel("pruned", "wavlm_pruned", "model")],
        [1e-3, 2e-3],
        [1, 2],
        Path("root"),
    )
    assert [(trial.model.name, trial.learning_rate, trial.seed) for trial in trials[:4]] == [
        ("fbank", 1e-3, 1), ("fbank", 2e-3, 1), ("pruned", 1e-3, 1), ("pruned", 2e-3, 1),
    ]  # fmt: skip
    assert len({trial.folder for trial in trials}) == 8
    job = Trial(ComparedModel("pruned", "wavlm_pruned", "model/seed{seed}"), 1e-3, 2, Path("folder/asr")).job(1200)
    assert job.command == (
        sys.executable,
        "run_downstream.py",
        "-u",
        "wavlm_pruned",
        "-k",
        "model/seed2",
        "-d",
        "asr",
        "-a",
        "-p",
        "folder/asr",
        "--seed",
        "2",
        "-o",
        "config.optimizer.lr=0.001,,config.runner.total_steps=1200,,config.runner.eval_step=100",
    )


@pytest.mark.parametrize(
    "text, model",
    [
        ("fbank", ComparedModel("fbank", "fbank")),
        ("random=wavlm_random", ComparedModel("random", "wavlm_random")),
        ("pruned=wavlm_pruned_local:a/seed{seed}:x", ComparedModel("pruned", "wavlm_pruned_local", "a/seed{seed}:x")),
    ],
)
def test_a_model_is_named_in_one_word(text, model):
    assert ComparedModel.parse(text) == model


def test_finished_trials_are_kept_and_the_first_failure_is_named_after_all_have_run(tmp_path, monkeypatch):
    """With a command in the place of run_downstream.py that fails for one learning rate."""
    monkeypatch.chdir(tmp_path)
    Path("run_downstream.py").write_text(
        "import sys, pathlib\n"
        "if 'lr=0.002' in sys.argv[-1]: sys.exit('error: no such corpus')\n"
        "folder = pathlib.Path(sys.argv[sys.argv.index('-p') + 1]); folder.mkdir(parents=True)\n"
        "(folder / 'result.json').touch(); open('calls', 'a').write('x')\n"
    )
    trials = plan([ComparedModel("fbank", "fbank")], [2e-3, 1e-3], [1, 2], Path("root"))
    for _ in range(2):
        with pytest.raises(
            UserError, match=r"2 of 4 runs failed; .*lr0.002-seed1.*no such corpus; see root/.*command.log"
        ):
            run_trials(trials, steps=100, parallel=2)
    assert Path("calls").read_text() == "xx"


def test_the_grid_is_tried_with_the_first_seed_and_the_others_go_with_its_best_rate(monkeypatch, tmp_path):
    """`a` is best at 2e-3 on seed 1, and would be at 1e-3 on seed 2, which must not be asked."""
    ran = []
    dev = {("a", 1e-3, 1): 30.0, ("a", 2e-3, 1): 20.0, ("b", 1e-3, 1): 5.0, ("b", 2e-3, 1): 6.0}

    def found(trial):
        return outcome(
            trial.model.name,
            trial.learning_rate,
            trial.seed,
            dev.get((trial.model.name, trial.learning_rate, trial.seed), 9.0),
        )

    monkeypatch.setattr(
        "benchmarks.upstream_comparison.comparison.run_trials", lambda trials, **kwargs: ran.extend(trials)
    )
    monkeypatch.setattr("benchmarks.upstream_comparison.comparison.outcome", found)
    edits = {"a": [4, 6], "b": [8, 12]}
    monkeypatch.setattr(
        "benchmarks.upstream_comparison.comparison.character_errors",
        lambda trials: (np.array([edits[trial.model.name] for trial in trials]), np.array([20, 30])),
    )
    models = [ComparedModel("a", "a"), ComparedModel("b", "b")]
    summary = compare(models, [1e-3, 2e-3], [1, 2, 3], tmp_path, steps=10, parallel=1, baseline="b")
    done = {(trial.model.name, trial.learning_rate, trial.seed) for trial in ran}
    assert done == {*dev, ("a", 2e-3, 2), ("a", 2e-3, 3), ("b", 1e-3, 2), ("b", 1e-3, 3)}
    rows = {row["name"]: row for row in summary["rows"]}
    assert rows["a"]["seeds"] == rows["b"]["seeds"] == 3
    assert (rows["a"]["learning_rate"], rows["b"]["learning_rate"]) == (2e-3, 1e-3)
    assert rows["a"]["cer_change"] == pytest.approx(-0.5) and rows["b"]["cer_change"] == 0
    assert "-50.0 %" in table(summary)


def test_costs_are_of_our_encoders_only_and_against_the_largest(tmp_path):
    found = costs(
        [
            ComparedModel.parse("fbank"),
            ComparedModel.parse("small=wavlm_random"),
            ComparedModel.parse("teacher=wavlm_embedded"),
        ],
        [1, 2],
        repeats=1,
        seconds=0.5,
    )
    assert set(found) == {"small", "teacher"}
    assert found["teacher"]["params"] == 5_442_056
    assert found["small"]["macs"] == found["teacher"]["macs"] > 1e8
