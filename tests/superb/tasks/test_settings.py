"""Settings are data: overrides are parsed, never evaluated, and nothing unread is accepted."""

import argparse
import copy

import pytest

from s3prl_pruned.config import UserError, load_yaml
from s3prl_pruned.superb.catalogue import TASKS
from s3prl_pruned.superb.running.make_run import SETTINGS
from s3prl_pruned.superb.tasks import settings
from s3prl_pruned.superb.tasks.drivers import driver_of

ARGS = argparse.Namespace(
    seed=1337, downstream="asr", upstream_layer_selection=None, **{
        key: None for key in settings.FEATURE_OPTIONS if key != "upstream_layer_selection"
    }
)  # fmt: skip


@pytest.fixture
def official():
    config = load_yaml(SETTINGS / "asr.yaml")
    assert config.pop("protocol") == "official"
    return config


def test_overrides_follow_s3prls_syntax_and_are_read_as_yaml(official):
    text = (
        "config.optimizer.lr=1.0e-3,, config.optimizer.torch_optim_name='AdamW' ,,"
        "config.runner.eval_dataloaders=['dev-clean', 'test-clean'],,config.optimizer.weight_decay=1e-2,,"
        "config.runner.fp16=True,,args.upstream_layer_selection=-1"
    )
    before = copy.deepcopy(official)
    args, config = settings.override(ARGS, official, text)
    assert config["optimizer"] == {
        "name": "TorchOptim", "torch_optim_name": "AdamW", "lr": 1e-3, "weight_decay": 0.01,
    }  # fmt: skip
    assert config["runner"]["eval_dataloaders"] == ["dev-clean", "test-clean"]
    assert config["runner"]["fp16"] is True
    assert args.upstream_layer_selection == -1
    assert official == before and ARGS.upstream_layer_selection is None


def test_an_override_is_never_evaluated(official, tmp_path):
    text = f"config.optimizer.torch_optim_name=open('{tmp_path}/made', 'w')"
    _, config = settings.override(ARGS, official, text)
    assert config["optimizer"]["torch_optim_name"].startswith("open(")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("config.optimiser.lr=1", "no such setting. Did you mean `optimizer`?"),
        ("config.runner.total_step=1", "no such setting. Did you mean `total_steps`?"),
        ("config.downstream_expert.datarc.batchsize=1", "Did you mean `batch_size`?"),
        ("args.sed=1", "no such argument. Did you mean `seed`?"),
        ("optimizer.lr=1", "must begin with `config.` or `args.`"),
        ("config.runner.total_steps", "must be written key.sub=value"),
    ],
)
def test_an_override_that_nothing_would_read_is_an_error(official, text, message):
    with pytest.raises(UserError, match=message):
        settings.override(ARGS, official, text)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("optimizer.name", "__import__('os').system('true')", "optimizer.name: must be a plain name, but is"),
        ("scheduler.name", "x()", "scheduler.name: must be a plain name"),
        ("downstream_expert.modelrc.select", "RNNs.mro()", "select: must be a plain name"),
        ("runner.save_step", 3000, r"must divide total_steps \(200000\), .* but is 3000"),
        ("runner.eval_step", 300000, r"must be at most total_steps \(200000\), .* but is 300000"),
        ("runner.total_steps", 0, "total_steps: must be a positive whole number, but is 0"),
    ],
)
def test_settings_that_would_run_code_or_lose_the_end_are_refused(official, path, value, message):
    settings.check(official)
    *sections, key = path.split(".")
    node = official
    for section in sections:
        node = node.setdefault(section, {})
    node[key] = value
    with pytest.raises(UserError, match=message):
        settings.check(official)


def test_a_decoder_with_a_language_model_is_refused(official):
    driver = driver_of(TASKS["asr"])
    driver.check(official)
    official["downstream_expert"]["datarc"]["decoder_args"]["decoder_type"] = "kenlm"
    with pytest.raises(UserError, match="scored without a language model"):
        driver.check(official)


def test_only_paths_workers_logging_and_learning_rate_may_differ_from_the_benchmark(official):
    config = copy.deepcopy(official)
    config["downstream_expert"]["datarc"] |= {"libri_root": "/x", "num_workers": 0, "dict_path": "y"}
    config["runner"] |= {"log_step": 1, "save_step": 100, "max_keep": 5}
    config["optimizer"]["lr"] = 1.0
    assert settings.differences(config, official) == []
    config["runner"]["eval_step"] = 100
    config["downstream_expert"]["modelrc"]["RNNs"]["dim"] = [8]
    config["scheduler"] = {"name": "x"}
    assert settings.differences(config, official) == [
        "downstream_expert.modelrc.RNNs.dim", "runner.eval_step", "scheduler",
    ]  # fmt: skip


CHANGES = {
    "total_steps": 60000, "eval_step": 30000, "eval_dataloaders": ["dev", "train"], "save_step": 1000, "max_keep": 200,
    "log_step": 7,
}  # fmt: skip
SELECTING = {"total_steps", "eval_step", "eval_dataloaders"}
"""Settings of a task that reports the best on dev. The interval of saving and the number of checkpoints do not change
the result: the best checkpoint has a name of its own, and the last step is always saved."""


@pytest.mark.parametrize("task", [task for task in TASKS if task != "qbe"])
def test_what_decides_which_checkpoint_is_reported_is_part_of_every_tasks_protocol(task):
    official, driver = load_yaml(SETTINGS / f"{task}.yaml"), driver_of(TASKS[task])
    kept = settings.settings_sha256(ARGS, official, selecting=driver.selecting)
    deciding = {f"runner.{key}" for key in (SELECTING | {"save_step"} if task == "sv" else SELECTING)}
    for key, value in CHANGES.items():
        config = copy.deepcopy(official)
        config["runner"][key] = value
        differs = settings.differences(config, official, selecting=driver.selecting)
        assert differs == ([f"runner.{key}"] if f"runner.{key}" in deciding else [])
        changed = settings.settings_sha256(ARGS, config, selecting=driver.selecting) != kept
        assert changed == bool(differs)


@pytest.mark.parametrize("task", ["pr", "sf"])
def test_the_metric_and_the_split_that_choose_the_checkpoint_are_part_of_the_protocol(task):
    official = load_yaml(SETTINGS / f"{task}.yaml")
    for key, value in (("save_best_on", ["dev", "test"]), ("metric", ["wer"]), ("metric_higher_better", "odd")):
        config = copy.deepcopy(official)
        config["downstream_expert"][key] = value
        assert settings.differences(config, official) == [f"downstream_expert.{key}"]


def test_the_hash_depends_on_what_decides_the_result_and_not_on_paths(official):
    first = settings.settings_sha256(ARGS, official)
    moved = copy.deepcopy(official)
    moved["downstream_expert"]["datarc"]["libri_root"] = "/elsewhere"
    assert settings.settings_sha256(ARGS, moved) == first
    faster = copy.deepcopy(official)
    faster["optimizer"]["lr"] = 2e-4
    assert settings.settings_sha256(ARGS, faster) != first
    assert settings.settings_sha256(argparse.Namespace(**(vars(ARGS) | {"seed": 1})), official) != first


def test_both_settings_that_we_ship_are_valid():
    for name in ("asr.yaml", "embedded_asr.yaml"):
        settings.check(settings.numbers(load_yaml(SETTINGS / name)))
