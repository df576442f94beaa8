"""No code in a torch file ever runs."""

import os
import zipfile

import pytest
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.formats import huggingface, registry
from s3prl_pruned.formats.unpickle import plain, read_torch_file
from s3prl_pruned.models.dummies import random_encoder, tiny_families
from tests.formats.test_fairseq import fairseq_checkpoint

SHAPES = tiny_families()


class Payload:
    """When unpickled, it writes a file."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


class Subtle(Payload):
    """The same, through a module whose other names are known to be harmless."""

    def __reduce__(self):
        import numpy.testing

        return numpy.testing.runstring, (f"open({self.target!r}, 'w')", {})


@pytest.mark.parametrize("payload", [Payload, Subtle])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["evil.pt", "folder/pytorch_model.bin"])
def test_no_code_of_a_malicious_file_runs(name, zipped, payload, tmp_path):
    config, target, path = SHAPES["hubert_base"], tmp_path / "written", tmp_path / name
    content = fairseq_checkpoint(config, style="plain")
    if "folder" in name:
        registry.write(path.parent, "huggingface", random_encoder(config, seed=1))
        (path.parent / "model.safetensors").unlink()
        content = huggingface.KEYS.to_theirs(random_encoder(config, seed=1).state_dict(), config)
    torch.save({**content, "zzz": payload(target)}, path, _use_new_zipfile_serialization=zipped)
    try:
        registry.read(path)  # if its module is known, the call creates an empty shell beside the weights
    except UserError as error:
        assert "Nothing of the file was run" in str(error) or "unknown keys ['zzz']" in str(error)
    else:
        assert payload is Subtle
    assert not target.exists()
    torch.load(path, weights_only=False)  # the payload is real: an unsafe load runs it
    assert target.exists()


def test_a_class_that_no_checkpoint_needs_is_named(tmp_path):
    torch.save({"cfg": {}, "model": {}, "extra": Payload(tmp_path / "written")}, tmp_path / "evil.pt")
    with pytest.raises(
        UserError, match=r"evil.pt: asks for posix.system, which no checkpoint .* needs\. Nothing of the file was run"
    ):
        registry.read(tmp_path / "evil.pt")


def test_a_torchscript_program_is_not_loaded(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "script.pt"))
    with pytest.raises(UserError, match="is a TorchScript program"):
        registry.read(tmp_path / "script.pt")


def test_a_file_cannot_change_the_functions_of_torch(tmp_path):
    """pickle's BUILD sets attributes of named objects, such as defaults of a function that reads all later files."""
    pickled = (
        b"\x80\x02}X\x01\x00\x00\x00xctorch._utils\n_rebuild_tensor_v2\n"
        b"N}X\x0c\x00\x00\x00__defaults__}X\x03\x00\x00\x00neg\x88s\x85s\x86bs."
    )
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        for name, content in (("data.pkl", pickled), ("version", b"3\n"), ("byteorder", b"little")):
            archive.writestr(f"evil/{name}", content)
    before = torch._utils._rebuild_tensor_v2.__defaults__
    with pytest.raises(UserError, match="a change of torch's function"):
        read_torch_file(tmp_path / "evil.pt")
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before
    torch.save({"a": torch.ones(2)}, tmp_path / "good.pt")
    assert torch.equal(read_torch_file(tmp_path / "good.pt")["a"], torch.ones(2))


def test_a_configuration_that_contains_itself_is_one_clear_error():
    inside: dict = {}
    inside["again"] = inside
    with pytest.raises(UserError, match="contains itself"):
        plain(inside)
