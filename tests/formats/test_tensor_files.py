"""Model files are written completely or not at all."""

import torch

from s3prl_pruned.formats.tensor_files import write_safetensors


def test_the_library_reads_files_of_our_safetensors_writer(tmp_path):
    from safetensors.torch import load_file

    state = {"a": torch.randn(3, 4).T, "b": torch.zeros(0, 5), "c": torch.tensor(2.5), "d": torch.randn(7).half()}
    written = []
    write_safetensors(tmp_path / "x.safetensors", state, progress=written.append)
    read = load_file(tmp_path / "x.safetensors")
    assert read.keys() == state.keys() and all(torch.equal(read[name], state[name]) for name in state)
    assert sum(written) == (tmp_path / "x.safetensors").stat().st_size
