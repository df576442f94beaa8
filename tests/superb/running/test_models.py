"""What a result says of its model: hash, note, parameters; checkpoints that are refused."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from s3prl_pruned import compat
from s3prl_pruned.config import UserError
from s3prl_pruned.superb.results.result import read_result
from s3prl_pruned.superb.running.options import make_parser
from s3prl_pruned.superb.tasks import checkpoints


class Expert(nn.Module):
    """An upstream like ours: 20 ms frames of noise times one weight, with hash and note."""

    teacher_note, model_path, model_hash = "random teacher", "somewhere/export", "ab" * 32

    def __init__(self, ckpt=None, model_config=None, refresh=False):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def get_downsample_rates(self, key):
        return 320

    def forward(self, wavs):
        frames = max(len(wav) for wav in wavs) // 320
        wavs = torch.stack([nn.functional.pad(wav, (0, 320 * frames))[: 320 * frames] for wav in wavs])
        return {"hidden_states": [wavs.view(len(wavs), frames, 320) * self.scale] * 3}


@pytest.fixture
def ours(monkeypatch):
    compat.apply()
    import s3prl.hub

    monkeypatch.setattr(s3prl.hub, "wavlm_stand_in", Expert, raising=False)


def test_hash_and_note_of_the_model_go_into_the_result_and_onto_the_screen(again, ours):
    printed = again("-u", "wavlm_stand_in")
    result = read_result(Path("results/wavlm_stand_in/asr/result.json"))
    assert result.upstream.sha256 == "ab" * 32 and result.upstream.path == "somewhere/export"
    assert result.upstream.num_parameters == 1
    assert result.upstream.teacher_note == "random teacher"
    first = printed.splitlines()[1]
    assert "SHA-256 " + "ab" * 32 in first and "random teacher" in first
    assert "upstream wavlm_stand_in, random teacher; custom protocol" in printed

    Expert.model_hash = "cd" * 32
    try:
        with pytest.raises(
            UserError, match="differs in upstream model .wavlm_stand_in abababababab, now .* cdcdcdcdcdcd"
        ):
            again("-u", "wavlm_stand_in")
    finally:
        Expert.model_hash = "ab" * 32


def test_a_model_without_a_hash_gets_one_from_its_weights(monkeypatch, ours):
    from s3prl_pruned.superb.tasks.upstreams import describe_upstream

    monkeypatch.delattr(Expert, "model_hash")
    args = make_parser().parse_args(["-u", "wavlm_stand_in"])
    first = describe_upstream(args).sha256
    assert re.fullmatch("[0-9a-f]{64}", first) and describe_upstream(args).sha256 == first
    monkeypatch.setattr(Expert, "reset", lambda self: self.scale.data.fill_(2.0), raising=False)
    changed = Expert()
    changed.reset()
    from s3prl_pruned.superb.tasks.upstreams import state_sha256

    assert state_sha256(Expert()) == first != state_sha256(changed)


def test_a_foreign_checkpoint_is_refused(tmp_path):
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="must be a downstream checkpoint of s3prl"):
        checkpoints.load_checkpoint(tmp_path / "other.ckpt")
    torch.save({"Args": Expert(), "Config": {}, "Step": 1}, tmp_path / "classes.ckpt")
    with pytest.raises(UserError, match=r"holds an object of the class [\w.]*Expert"):
        checkpoints.load_checkpoint(tmp_path / "classes.ckpt")
