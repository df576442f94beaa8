"""PR, SF, SV, SD and QbE with the embedded teacher, whose layers are several: minutes on a slow machine."""

from pathlib import Path

import pytest

from s3prl_pruned.superb import run
from s3prl_pruned.superb.results import read_result
from tests.superb_mini import make_corpora, settings

SETTINGS = {
    "pr": settings(corpus__batch_size=2, corpus__num_workers=0),
    "sf": settings(corpus__batch_size=2, corpus__num_workers=0, model__project_dim=16, model__RNNs__dim="[16,16]"),
    "sv": settings(datarc__train_batch_size=1, datarc__num_workers=0),
    "sd": settings(loaderrc__train_batchsize=1, loaderrc__num_workers=0, datarc__chunk_size=200),
    "qbe": "config.downstream_expert.datarc.num_workers=0,,config.downstream_expert.max_workers=1",
}
LAYERS = 7


@pytest.mark.slow
@pytest.mark.parametrize("task", SETTINGS)
def test_a_task_runs_with_the_embedded_teacher(workplace, task):
    corpus = make_corpora(workplace / task, task)[task]
    run.main(["-u", "wavlm_embedded", "-d", task, "--device", "cpu", "--corpus", str(corpus), "-o", SETTINGS[task]])
    result = read_result(Path("results/wavlm_embedded") / task / "result.json")
    assert result.upstream.name == "wavlm_embedded" and result.upstream.sha256
    if task == "qbe":
        dev = {part.name: part.metrics[0].value for part in result.parts if part.split == "dev"}
        assert list(dev) == [f"layer{layer}" for layer in range(LAYERS)]
        tested = result.parts[-1]
        assert tested.split == "test" and dev[tested.name] == max(dev.values())
    else:
        assert result.checkpoint.step in (1, 2)
        (scored,) = (split.num_utterances for split in result.splits if split.key == ("trials" if task == "sv" else "test"))
        assert result.num_utterances == scored
