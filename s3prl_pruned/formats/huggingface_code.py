"""A folder that `transformers.AutoModel` loads without this package.

It is our own folder format (also read by `folder.py`) with transformers' keys in `config.json`, the configuration of a
feature extractor, and one modelling file that is put together from this package's modules.
"""

import ast
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

import s3prl_pruned
from s3prl_pruned.config import UserError
from s3prl_pruned.formats.card import TO_HUGGING_FACE, card_head
from s3prl_pruned.formats.ctc_head import head_state, tokenizer_files
from s3prl_pruned.formats.folder import CARD, CONFIG, TOLERANCE, probe, relative_difference, save_encoder
from s3prl_pruned.formats.huggingface_sizes import sizes
from s3prl_pruned.formats.tensor_files import Progress, written_whole
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.shape import EncoderConfig

PREPROCESSOR, MODELLING = "preprocessor_config.json", "modeling_s3prl_pruned"
# In the order of their imports.
_SOURCES = (
    "config.py",
    "models/state_rule.py",
    "models/time_reduction.py",
    "models/shape.py",
    "models/spec.py",
    "models/masks.py",
    "models/linear.py",
    "models/components.py",
    "models/cnn.py",
    "models/windows.py",
    "models/log_mel.py",
    "models/attention.py",
    "models/state_heads.py",
    "models/encoder.py",
    "models/accelerate/paths.py",
    "models/accelerate/cnn.py",
    "models/accelerate/positions.py",
    "models/accelerate/closed_units.py",
    "models/accelerate/fused_attention.py",
    "models/accelerate/attention.py",
    "models/accelerate/feed_forward.py",
    "models/accelerate/whole.py",
    "models/accelerate/__init__.py",
    "formats/huggingface_sizes.py",
    "formats/huggingface_config.py",
    "formats/huggingface_model.py",
    "formats/huggingface_heads.py",
)
_CLASSES = {
    "AutoConfig": "PrunedSpeechConfig",
    "AutoModel": "PrunedSpeechModel",
    "AutoModelForCTC": "PrunedSpeechForCTC",
    "AutoModelForAudioClassification": "PrunedSpeechForSequenceClassification",
    "AutoModelForAudioFrameClassification": "PrunedSpeechForAudioFrameClassification",
    "AutoModelForAudioXVector": "PrunedSpeechForXVector",
}
_CARD = """
## With transformers, without s3prl_pruned

    from transformers import AutoFeatureExtractor, AutoModel
    extractor = AutoFeatureExtractor.from_pretrained("<this folder>")
    model = AutoModel.from_pretrained("<this folder>", trust_remote_code=True)
    inputs = extractor(waveforms, sampling_rate=16000, padding=True, return_tensors="pt")
    states = model(**inputs, output_hidden_states=True).hidden_states

Pass waveforms unnormalised; the model normalises them if it was trained so. `attentions` are those of the heads
that are kept in a layer. For fine-tuning, `AutoModelForCTC`, `AutoModelForAudioClassification`,
`AutoModelForAudioFrameClassification` and `AutoModelForAudioXVector` add a new head, as for wav2vec 2.0.
"""


_CARD_CTC = """
The folder includes its CTC head and a tokenizer:

    recognise = transformers.pipeline("automatic-speech-recognition", "<this folder>", trust_remote_code=True)
    recognise("speech.wav")["text"]
"""


def save_huggingface(
    folder: str | Path,
    encoder: SpeechEncoder,
    provenance: dict,
    *,
    progress: Progress | None = None,
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Write an encoder, dense or compact, and check in another process that transformers computes the same.

    Args:
        folder: must not exist yet.
        encoder: its slots must be empty.
        provenance: JSON data on the model's origin, for the card.
        progress: called with the number of bytes just written.
        files: further files of the folder; with a CTC head among them (`ctc_head`), the model is one for CTC.

    Raises:
        UserError: the folder exists or cannot be written, transformers is missing, or the hidden states in transformers
            differ from those of `encoder` (then nothing is left).
    """
    with written_whole(Path(folder)) as temporary:
        _require_transformers()
        head = head_state(files or {})
        prefix = "speech_encoder.encoder." if head else "encoder."
        save_encoder(temporary, encoder, provenance, progress=progress, files=files, prefix=prefix, more=head)
        _add_transformers_files(temporary, encoder, provenance, head)
        for name, text in tokenizer_files(files or {}).items():
            (temporary / name).write_text(text, encoding="utf-8")
        _check(temporary, encoder, head)


def _add_transformers_files(folder: Path, encoder: SpeechEncoder, provenance: dict, head: dict[str, Tensor]) -> None:
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config |= {
        "model_type": "s3prl_pruned",
        "architectures": [_CLASSES["AutoModelForCTC" if head else "AutoModel"]],
        "auto_map": {auto: f"{MODELLING}.{name}" for auto, name in _CLASSES.items()},
        **sizes(encoder.config, encoder.spec),
        "dtype": "float32",
    }
    if head:
        config |= {
            "vocab_size": len(head["lm_head.bias"]),
            "pad_token_id": 0,
            "bos_token_id": None,
            "eos_token_id": None,
        }
    (folder / CONFIG).write_text(json.dumps(config) + "\n", encoding="utf-8")
    # The model normalises by itself: transformers' extractor would add another epsilon to the variance.
    preprocessor = {**preprocessor_config(encoder.config), "do_normalize": False}
    if head:
        preprocessor["processor_class"] = "Wav2Vec2Processor"
    (folder / PREPROCESSOR).write_text(json.dumps(preprocessor, indent=2) + "\n", encoding="utf-8")
    (folder / f"{MODELLING}.py").write_text(modelling_source(), encoding="utf-8")
    card = (folder / CARD).read_text(encoding="utf-8").replace(TO_HUGGING_FACE, "")
    task = "automatic-speech-recognition" if head else "feature-extraction"
    text = card_head(encoder, provenance, task) + card + _CARD + _CARD_CTC * bool(head)
    (folder / CARD).write_text(text, encoding="utf-8")


def preprocessor_config(config: EncoderConfig) -> dict:
    """`preprocessor_config.json` of transformers, which describes how waveforms are prepared."""
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": 16000,
        "padding_value": 0.0,
        "padding_side": "right",
        "do_normalize": config.normalize_waveform,
        "return_attention_mask": True,
    }


def modelling_source() -> str:
    """The modelling file: this package's modules in one file, without imports of each other."""
    package, imports, bodies = Path(s3prl_pruned.__file__).parent, [], []
    defined: dict[str, str] = {}
    for name in _SOURCES:
        text = (package / name).read_text(encoding="utf-8")
        lines = text.splitlines()
        dropped: set[int] = set()
        for node in ast.parse(text).body:
            docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                module = getattr(node, "module", None) or ""
                if module.split(".")[0] not in ("s3prl_pruned", "__future__"):
                    imports.append(ast.unparse(node))
            elif not docstring:
                for defines in _names(node):
                    assert defined.setdefault(defines, name) == name, (
                        f"{defines} is in {defined[defines]} and in {name}"
                    )
                continue
            dropped |= set(range(node.lineno - 1, node.end_lineno or node.lineno))
        body = "\n".join(line for i, line in enumerate(lines) if i not in dropped).strip()
        bodies.append(f"# ---- s3prl_pruned/{name}\n\n{body}\n")
    head = (
        f'"""Generated by s3prl_pruned {s3prl_pruned.__version__} at export, from the modules named below: change '
        'them, not this file."""\n\nfrom __future__ import annotations\n'
    )
    return "\n\n".join([head, "\n".join(dict.fromkeys(sorted(imports))), *bodies])


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _require_transformers() -> None:
    from importlib.util import find_spec

    if find_spec("transformers") is None:
        raise UserError(
            "a Hugging Face folder is checked with transformers, which is not installed: pip install transformers"
        )


# Runs in a process that cannot import this package, as on a machine without it.
_LOADER = """
import sys
sys.modules["s3prl_pruned"] = None
import safetensors.torch, torch, transformers
folder, given, result, auto = sys.argv[1:]
model, info = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
wrong = {name: sorted(map(str, keys)) for name, keys in info.items() if keys}
assert not wrong, f"weights do not fit: {wrong}"
inputs = safetensors.torch.load_file(given)
with torch.no_grad():
    output = model.eval()(**inputs, output_hidden_states=True)
states = [*output.hidden_states, *([output.logits] if "logits" in output else [])]
safetensors.torch.save_file({str(i): state.contiguous() for i, state in enumerate(states)}, result)
"""


def _check(folder: Path, encoder: SpeechEncoder, head: dict[str, Tensor]) -> None:
    """Load the folder in another process and compare all hidden states of a padded batch, and outputs of the head."""
    wavs, lengths = probe()
    with torch.no_grad():
        output = encoder.encode_raw(wavs, lengths)
        expected = encoder.states(output)
        if head:
            expected.append(F.linear(output.hidden_states[-1], head["lm_head.weight"], head["lm_head.bias"]))
    with tempfile.TemporaryDirectory() as scratch:
        given, result = Path(scratch) / "given.safetensors", Path(scratch) / "result.safetensors"
        mask = (torch.arange(wavs.shape[1]) < lengths[:, None]).long()
        safetensors.torch.save_file({"input_values": wavs, "attention_mask": mask}, given)
        environment = {**os.environ, "HF_MODULES_CACHE": scratch, "HF_HUB_OFFLINE": "1"}
        auto = "AutoModelForCTC" if head else "AutoModel"
        command = [sys.executable, "-c", _LOADER, str(folder.resolve()), str(given), str(result), auto]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=scratch)
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(
                f"{folder}: transformers cannot load the exported folder ({reason}). Nothing was written; "
                "please report this."
            )
        states = safetensors.torch.load_file(result)
    difference = relative_difference([states[str(i)] for i in range(len(states))], expected)
    if not difference <= TOLERANCE:  # NaN too
        raise UserError(
            f"{folder}: transformers' output differs from the encoder by {difference:.1e} (relative), but rounding "
            f"explains at most {TOLERANCE:.0e}. Nothing was written; please report this."
        )
