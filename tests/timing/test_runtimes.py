"""Our ONNX file in other runtimes, as models of the timing harness."""

import pytest
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.formats.folder import TOLERANCE
from s3prl_pruned.timing import checks
from s3prl_pruned.timing.models import Builder
from s3prl_pruned.timing.names import parse


@pytest.fixture(scope="module")
def wav():
    return torch.randn(9000, generator=torch.Generator().manual_seed(0)) * 0.1


@pytest.fixture(scope="module")
def builder():
    return Builder(random=True)


@pytest.mark.parametrize("runtime, package", [("ort", "onnxruntime"), ("openvino", "openvino")])
def test_a_runtime_computes_what_torch_computes(structure_file, wav, builder, runtime, package):
    pytest.importorskip(package)
    names = [str(structure_file), f"{structure_file}+{runtime}", f"{structure_file}+{runtime}+int8"]
    made = [builder.build(parse(name)) for name in names]
    (fp32, int8), lost = checks.check_equal(made, wav)
    assert not lost and fp32["bound"] == TOLERANCE >= fp32["difference"]
    assert int8["bound"] is None and 1e-4 < int8["difference"] < 0.5
    assert made[1].module is None and made[1].params == made[0].params


def test_a_runtime_takes_batches_that_are_padded(structure_file, wav, builder):
    pytest.importorskip("onnxruntime")
    made = [builder.build(parse(f"{structure_file}{variant}")) for variant in ("", "+ort")]
    with torch.inference_mode():
        ours, theirs = (one.encode([wav, wav[:5000]]) for one in made)
    for one, other in zip(ours, theirs):
        assert torch.allclose(one, other, atol=2e-5)


def test_a_missing_runtime_is_reported(structure_file, monkeypatch):
    from s3prl_pruned.timing import runtimes

    monkeypatch.setattr(runtimes, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"openvino is not installed: pip install 's3prl_pruned\[openvino\]'"):
        Builder(random=True).build(parse(f"{structure_file}+openvino"))
    with pytest.raises(UserError, match="onnxruntime is not installed"):
        Builder(random=True).build(parse(f"{structure_file}+ort"))
