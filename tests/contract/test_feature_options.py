"""All options that choose features work with a pruned upstream, from the command line to the result of a task."""

import contextlib
import io
from pathlib import Path

import pytest
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.results.result import read_result
from s3prl_pruned.superb.running import run
from tests.superb_corpora import make_speech_commands, tiny


@pytest.fixture(scope="module")
def command(exported, hub, tmp_path_factory):
    """Keyword spotting on the pruned upstream, in a folder of its own; returns result and checkpoint."""
    folder = tmp_path_factory.mktemp("features")
    make_speech_commands(folder)
    settings = tiny(batch_size=8).replace("total_steps=4", "total_steps=2")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))

        def call(name, *options):
            where = [
                "-u",
                "wavlm_pruned_local",
                "-k",
                str(exported),
                "-d",
                "ks",
                "--corpus",
                ".",
                "-n",
                name,
                "--device",
                "cpu",
            ]
            with contextlib.redirect_stdout(io.StringIO()):
                run.main([*where, "-o", settings, *options])
            result = read_result(Path("results") / name / "ks" / "result.json")
            return result, torch.load(f"results/{name}/ks/states-2.ckpt", weights_only=True)

        yield call


@pytest.mark.parametrize(
    ("name", "options", "num_weights"),
    [
        ("plain", [], 4),
        ("normalised", ["--upstream_feature_normalize"], 4),
        ("layer", ["-l", "1"], None),
        ("last", ["-s", "last_hidden_state"], None),
        ("single", ["--single-utterance"], 4),
    ],
)
def test_features_are_chosen_as_in_s3prl(command, name, options, num_weights):
    result, states = command(name, *options)
    weights = states["Featurizer"].get("weights")
    assert (None if weights is None else len(weights)) == num_weights
    assert result.upstream.name == "wavlm_pruned_local" and len(result.upstream.sha256) == 64
    assert "Upstream" not in states
    for option, word in (("-l", "upstream_layer_selection"), ("-s", "upstream_feature_selection")):
        assert (word in result.protocol_note) == (option in options)


def test_a_pruned_upstream_is_fine_tuned_and_evaluated_with_its_new_weights(command, hub, exported):
    result, states = command("tuned", "-f")
    assert "upstream_trainable" in result.protocol_note
    before = hub.wavlm_pruned_local(ckpt=str(exported)).state_dict()
    assert before.keys() == states["Upstream"].keys()
    assert any(not torch.equal(before[name], value) for name, value in states["Upstream"].items())
    assert result.checkpoint.step == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["-s", "hidden_stats"],
            "-s hidden_stats: the upstream does not return it. It returns hidden_states, last_hidden_state",
        ),
        (["-l", "4"], "-l 4: must be from 0 to 3, since hidden_states of wavlm_pruned_local holds 4 states"),
    ],
)
def test_features_that_do_not_exist_are_refused(command, options, message):
    with pytest.raises(UserError, match=message):
        command("wrong", *options)
