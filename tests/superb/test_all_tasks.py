"""All ten tasks from the command line to the table, with FBANK, the embedded teacher and its pruned model: minutes.

The corpora are tiny, in the official layouts. If S3PRL_PRUNED_MINI_SUPERB names a folder made by
`python -m benchmarks.mini_superb`, its corpora are used, mostly real speech; else ASR, PR and QbE have real prompts and
the others synthetic sounds. Two steps train nothing: no number here means anything.
"""

import contextlib
import io
import math
import os
from pathlib import Path

import pytest
import yaml

from s3prl_pruned.commands import score as score_command
from s3prl_pruned.superb.catalogue import TASKS
from s3prl_pruned.superb.results.result import read_result
from s3prl_pruned.superb.running import run
from tests.superb_mini import make_corpora, settings

RNN = {"project_dim": 16, "RNNs__dim": "[16,16]"}
SETTINGS = {
    "pr": settings(corpus__batch_size=2, corpus__num_workers=0),
    "asr": settings(
        datarc__batch_size=4, datarc__num_workers=0, **{f"modelrc__{key}": value for key, value in RNN.items()}
    ),
    "ks": settings(datarc__batch_size=8, datarc__num_workers=0),
    "qbe": "config.downstream_expert.datarc.num_workers=0,,config.downstream_expert.max_workers=1",
    "sid": settings(datarc__train_batch_size=2, datarc__num_workers=0),
    "sv": settings(datarc__train_batch_size=1, datarc__num_workers=0),
    "sd": settings(loaderrc__train_batchsize=1, loaderrc__num_workers=0, datarc__chunk_size=200),
    "ic": settings(datarc__train_batch_size=4, datarc__num_workers=0),
    "sf": settings(
        corpus__batch_size=2, corpus__num_workers=0, **{f"model__{key}": value for key, value in RNN.items()}
    ),
    "er": settings(datarc__train_batch_size=4, datarc__num_workers=0),
}
LAYERS = {"fbank": 1, "teacher": 7, "pruned": 7}


@pytest.fixture(scope="module")
def corpora(workplace):
    """Corpora by task, for `--corpus`."""
    if made := os.environ.get("S3PRL_PRUNED_MINI_SUPERB"):
        paths = yaml.safe_load((Path(made) / "paths.yaml").read_text())
        return {task: Path(made) / paths[task] for task in TASKS}
    return make_corpora(workplace, *TASKS)


@pytest.fixture(scope="module")
def upstreams(workplace):
    """`-u` and `-k` of each row. The pruned model is made from the teacher with a sparsity of 80 % after two steps."""
    from s3prl_pruned.pretrain.command import main

    steps = "runner.total_steps=2,,runner.save_step=1,,runner.log_step=1"
    with contextlib.redirect_stdout(io.StringIO()):
        main(["-u", "wavlm_pruned_distill", "-p", "pruning", "--device", "cpu", "-o", steps])
    return {
        "fbank": ["-u", "fbank"],
        "teacher": ["-u", "wavlm_embedded"],
        "pruned": ["-u", "wavlm_pruned_local", "-k", str(workplace / "pruning" / "export")],
    }


@pytest.mark.slow
@pytest.mark.parametrize("row", LAYERS)
@pytest.mark.parametrize("task", SETTINGS)
def test_a_task_trains_and_evaluates_end_to_end(corpora, upstreams, row, task):
    run.main(
        [
            *upstreams[row],
            "-d",
            task,
            "--device",
            "cpu",
            "-n",
            row,
            "--corpus",
            str(corpora[task]),
            "-o",
            SETTINGS[task],
        ]
    )
    result = read_result(Path("results") / row / task / "result.json")
    assert result.upstream.name == upstreams[row][1] and bool(result.upstream.sha256) == (row != "fbank")
    assert [metric.name for metric in TASKS[task].metrics if metric.name in result.values()]
    assert all(math.isfinite(value.value) for value in result.metrics)
    if task == "qbe":
        dev = {part.name: part.metrics[0].value for part in result.parts if part.split == "dev"}
        assert list(dev) == [f"layer{layer}" for layer in range(LAYERS[row])]
        tested = result.parts[-1]
        assert tested.split == "test" and dev[tested.name] == max(dev.values())
    elif task == "er":
        assert [part.name for part in result.parts] == [f"fold{fold}" for fold in range(1, 6)]
        assert result.values()["acc"].value == pytest.approx(sum(part.metrics[0].value for part in result.parts) / 5)
    else:
        assert result.checkpoint.step in (1, 2)
        key = {"sv": "trials", "asr": "test-clean"}.get(task, "test")
        (scored,) = (split.num_utterances for split in result.splits if split.key == key)
        assert result.num_utterances == scored


@pytest.mark.slow
def test_the_three_upstreams_have_ten_tasks_none_of_which_is_official_and_so_no_score(workplace, capsys):
    done = {
        row: [task for task in TASKS if (workplace / "results" / row / task / "result.json").is_file()]
        for row in LAYERS
    }
    if any(tasks != list(TASKS) for tasks in done.values()):
        pytest.skip("needs the results of all tests above")
    score_command.main(["results", "--format", "markdown"])
    printed = capsys.readouterr().out
    lines = {line.split(" | ")[0].lstrip("| "): line for line in printed.splitlines()}
    assert all(lines[row].count("\\*") == len(TASKS) and lines[row].endswith("| - | - |") for row in LAYERS)
    assert "every row: no score: none of its tasks is official" in printed
