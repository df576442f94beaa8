"""Folders of transformers' own models: other architectures are refused, and the mask embedding may be absent."""

import json

import pytest

from s3prl_pruned import compat
from s3prl_pruned.config import UserError
from s3prl_pruned.formats import registry
from s3prl_pruned.models.dummies import random_encoder, tiny_families

SHAPES = tiny_families()


def hugging_face_folder(tmp_path, **changes):
    registry.write(tmp_path / "x", "huggingface", random_encoder(SHAPES["hubert_large"], seed=1))
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    (tmp_path / "x" / "config.json").write_text(json.dumps({**config, **changes}))
    return tmp_path / "x"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "bert"},
            r"`model_type` must be one of \['data2vec-audio', 'hubert', 'wav2vec2', 'wavlm'\], but is 'bert'",
        ),
        ({"hidden_act": "relu"}, "`hidden_act` must be 'gelu' for this encoder, but is 'relu'"),
        ({"feat_proj_layer_norm": False}, "`feat_proj_layer_norm` must be True"),
        ({"conv_kernel": [3]}, "`conv_dim`, `conv_kernel` and `conv_stride` must be lists of one length"),
        ({"hidden_size": "many"}, "embed_dim: must be a whole number"),
        ({"num_hidden_layers": 7}, "missing keys"),
        ({"num_hidden_layers": 10**9}, "`num_layers` must be at most 1000"),
        ({"intermediate_size": 2**40}, "`ffn_dim` must be at most 1048576"),
    ],
)
def test_a_hugging_face_folder_of_another_architecture_is_refused(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        registry.read(hugging_face_folder(tmp_path, **changes))


def test_a_folder_that_declares_no_mask_embedding_needs_none(tmp_path):
    folder = hugging_face_folder(tmp_path, mask_time_prob=0.0)
    with pytest.raises(UserError, match=r"unknown keys \['masked_spec_embed'\]"):
        registry.read(folder)


@pytest.mark.parametrize("name", ["hubert_base", "hubert_large"])
@pytest.mark.parametrize("normalize", [False, True])
def test_settings_of_the_feature_extractor_are_read_from_either_file_as_transformers_reads_them(
    name, normalize, tmp_path
):
    compat.apply()  # torchaudio without its compiled part
    transformers = pytest.importorskip("transformers")
    registry.write(tmp_path / "x", "huggingface", random_encoder(SHAPES[name], seed=1))
    old, new = tmp_path / "x" / "preprocessor_config.json", tmp_path / "x" / "processor_config.json"
    settings = {**json.loads(old.read_text()), "do_normalize": normalize}
    for older, newer in ((settings, None), (None, {"feature_extractor": settings}),
                         ({**settings, "do_normalize": not normalize}, {"feature_extractor": settings}),
                         (settings, {"processor_class": "Wav2Vec2Processor"})):  # fmt: skip
        for file, data in ((old, older), (new, newer)):
            file.unlink(missing_ok=True) if data is None else file.write_text(json.dumps(data))
        assert registry.read(tmp_path / "x").encoder.config.normalize_waveform is normalize
        theirs, _ = transformers.Wav2Vec2FeatureExtractor.get_feature_extractor_dict(tmp_path / "x")
        assert theirs["do_normalize"] is normalize


def test_settings_that_do_not_change_waveforms_are_accepted(tmp_path):
    folder = hugging_face_folder(tmp_path)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    settings |= {"processor_class": "Wav2Vec2Processor", "padding_side": "left", "max_length": 3, "_commit_hash": "x"}
    (folder / "preprocessor_config.json").write_text(json.dumps({**settings, "dither": None}))
    assert registry.read(folder).encoder.config.normalize_waveform


@pytest.mark.parametrize("name", ["preprocessor_config.json", "processor_config.json"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling_rate": 8000}, "its feature extractor: `sampling_rate` must be 16000 .* but is 8000"),
        ({"feature_size": 80}, "its feature extractor: `feature_size` must be 1 .* but is 80"),
        ({"padding_value": -1.0}, "its feature extractor: `padding_value` must be 0.0 .* but is -1.0"),
        ({"feature_extractor_type": "WhisperFeatureExtractor"}, "must be 'Wav2Vec2FeatureExtractor'"),
        ({"do_normalize": "false"}, "`do_normalize` must be true or false, but is 'false'"),
        ({"variance_epsilon": 1e-3}, "its feature extractor: has `variance_epsilon` = '0.001', which is not known"),
    ],
)
def test_a_feature_extractor_that_prepares_waveforms_differently_is_refused(name, changes, message, tmp_path):
    folder = hugging_face_folder(tmp_path)
    settings = {**json.loads((folder / "preprocessor_config.json").read_text()), **changes}
    nested = {"feature_extractor": settings} if name == "processor_config.json" else settings
    (folder / name).write_text(json.dumps(nested))
    with pytest.raises(UserError, match=message):
        registry.read(folder)
