"""The Hugging Face folder works without this package and gives the same states; else it is not written."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.formats import huggingface_code as huggingface
from s3prl_pruned.formats.folder import load_encoder, save_encoder
from s3prl_pruned.models.components import normalize_utterances
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_families
from s3prl_pruned.upstream.expert import UpstreamExpert

pytest.importorskip("transformers", reason="only the extras `transformers` and `test` install it")

SHAPES = tiny_families()
PROVENANCE = {"teacher_note": "random teacher"}
LENGTHS = (4000, 3111, 700)

# The code of a user, in an interpreter without this package.
USER = """
import sys
from dataclasses import replace
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "s3prl_pruned":
            raise ImportError("s3prl_pruned is not installed here")
sys.meta_path.insert(0, Absent())
import safetensors.torch, torch, types
try:
    import torchaudio
except (OSError, RuntimeError):
    # its compiled part does not load beside this torch; transformers' extractor only imports it
    sys.modules["torchaudio._extension"] = types.SimpleNamespace(
        _IS_TORCHAUDIO_EXT_AVAILABLE=False, _IS_ALIGN_AVAILABLE=False, fail_if_no_align=lambda function: function
    )
from transformers import AutoFeatureExtractor, AutoModel
wavs = safetensors.torch.load_file(sys.argv[1])
wavs = [wavs[name].numpy() for name in sorted(wavs)]
for folder in sys.argv[2:]:
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    inputs = extractor(wavs, sampling_rate=16000, padding=True, return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
    assert torch.equal(output.last_hidden_state, output.hidden_states[-1])
    states = {str(i): state.contiguous() for i, state in enumerate(output.hidden_states)}
    safetensors.torch.save_file(states, folder + "/states.safetensors")
    model.save_pretrained(folder + "/again")
    again = AutoModel.from_pretrained(folder + "/again", trust_remote_code=True).eval()
    with torch.no_grad():
        last, found = output.last_hidden_state, again(**inputs).last_hidden_state
        next(p for p in again.parameters() if p.ndim == 2 and p.numel())[0, 0] += 1
        other = again(**inputs).last_hidden_state
    near, far = (float((state - last).abs().max() / last.abs().max().clamp(min=1)) for state in (found, other))
    assert near <= 2e-5 and far > 10 * 2e-5, (near, far)
"""


def waveforms():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(length, generator=generator) * 0.1 + 0.02 for length in LENGTHS]


def pruned(name):
    """Models with a dense CNN and positional convolution (hubert) and with pruned ones."""
    spec = random_spec(SHAPES[name], seed=2, channels="hubert" not in name)
    if "hubert" not in name and SHAPES[name].has_position_groups:
        spec = replace(spec, position_groups=(1, 2))
    return random_encoder(SHAPES[name], seed=1, spec=spec)


def test_transformers_loads_every_family_without_this_package_and_computes_the_upstreams_states(
    tmp_path, relative_differences
):
    names = ("wavlm_base", "hubert_large", "data2vec_base")
    for name in names:
        huggingface.save_huggingface(tmp_path / name, pruned(name), PROVENANCE)
        save_encoder(tmp_path / f"{name}.ours", pruned(name), PROVENANCE)
    safetensors.torch.save_file({str(i): wav for i, wav in enumerate(waveforms())}, tmp_path / "wavs.safetensors")
    command = [
        sys.executable,
        "-c",
        USER,
        str(tmp_path / "wavs.safetensors"),
        *(str(tmp_path / name) for name in names),
    ]
    environment = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    for name in names:
        with torch.no_grad():
            expected = UpstreamExpert(tmp_path / f"{name}.ours").eval()(waveforms())["hidden_states"]
        found = safetensors.torch.load_file(tmp_path / name / "states.safetensors")
        assert max(relative_differences([found[str(i)] for i in range(len(found))], expected)) <= 2e-5


def test_the_folder_is_also_our_own_format_and_its_card_says_how_to_use_it(tmp_path):
    encoder = pruned("wavlm_large")
    huggingface.save_huggingface(tmp_path / "x", encoder, PROVENANCE)
    read, provenance = load_encoder(tmp_path / "x")
    assert read.spec == encoder.spec and provenance == PROVENANCE
    assert all(
        torch.equal(a, b) for a, b in zip(read.state_dict().values(), encoder.state_dict().values(), strict=True)
    )
    card = (tmp_path / "x" / "README.md").read_text()
    assert "trust_remote_code=True" in card and "random teacher" in card
    assert "--to huggingface" not in card, "it is such a folder already"
    assert json.loads((tmp_path / "x" / "preprocessor_config.json").read_text())["sampling_rate"] == 16_000


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            ("return a * (b * self.scale.view(-1, 1, 1) - 1.0) + 2.0", "return a * 0 + 2.0"),
            r"differs from the encoder by .*Nothing was written",
        ),
        (("self.fc1(x)", "(self.fc1(x) * float('nan'))"), "differs from the encoder by nan"),
        (
            ("class SpeechEncoder(nn.Module):", "class SpeechEncoder(nn.Module)"),
            "transformers cannot load the exported folder .*SyntaxError",
        ),
        (("import torch\n", "import torch, s3prl_pruned.models\n"), "transformers cannot load the exported folder"),
    ],
)
def test_an_export_with_other_states_leaves_nothing(wrong, message, tmp_path, monkeypatch):
    source = huggingface.modelling_source()
    assert wrong[0] in source
    monkeypatch.setattr(huggingface, "modelling_source", lambda: source.replace(*wrong))
    with pytest.raises(UserError, match=message):
        huggingface.save_huggingface(tmp_path / "x", random_encoder(SHAPES["wavlm_base"], seed=1), PROVENANCE)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_never_overwritten(tmp_path):
    with pytest.raises(UserError, match="exists already"):
        huggingface.save_huggingface(tmp_path, pruned("wavlm_base"), PROVENANCE)


def test_the_modelling_file_mentions_this_package_in_comments_only():
    import ast

    imports = [
        node
        for node in ast.walk(ast.parse(huggingface.modelling_source()))
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    modules = {getattr(node, "module", None) or node.names[0].name for node in imports}
    assert not any(module.startswith("s3prl") for module in modules)
    assert {module.split(".")[0] for module in modules} - set(sys.stdlib_module_names) == {
        "torch",
        "transformers",
        "triton",  # if it is installed
        "yaml",
    }


def test_a_padded_batch_is_normalised_like_each_utterance_alone():
    from s3prl_pruned.data.waveforms import normalize_waveform

    wavs = waveforms()
    batch = normalize_utterances(torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True), torch.tensor(LENGTHS))
    for row, wav in zip(batch, wavs):
        torch.testing.assert_close(row[: len(wav)], normalize_waveform(wav), atol=2e-6, rtol=1e-5)
        assert not row[len(wav) :].any()
    torch.testing.assert_close(normalize_utterances(wavs[0][None], None)[0], normalize_waveform(wavs[0]))
