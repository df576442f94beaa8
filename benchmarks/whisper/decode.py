"""Our encoders with Whisper's own decoder: the effect of pruning on recognition, without any retraining.

    pip install --no-deps openai-whisper && pip install tiktoken more-itertools numba
    python -m benchmarks.whisper.decode tiny.en.pt [EXPORT ...]
    python -m benchmarks.whisper.decode tiny.en.pt EXPORT --corpus /data/LibriSpeech --split test-clean

The decoder is that of OpenAI's English checkpoint, greedy, without timestamps. Each model is run in padded windows, as
in the decoder's training, whatever its own configuration says. Without an EXPORT, the checkpoint's own encoder is used.
Word and character error rates are on the embedded English test set, or on a corpus in LibriSpeech's layout, with 95 %
bootstrap intervals over utterances.
"""

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from s3prl_pruned.checkpoint import write_text
from s3prl_pruned.command_line import command_line
from s3prl_pruned.config import UserError
from s3prl_pruned.tables import Column, Table


def main(argv: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="OpenAI's file: its decoder, and the encoder to compare with")
    parser.add_argument("models", nargs="*", help="exports, or any model of a Whisper encoder of the same width")
    parser.add_argument("--corpus", type=Path, help="folder in LibriSpeech's layout (default: the embedded speech)")
    parser.add_argument("--split", default="test", help="a folder of the corpus (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="utterances (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results, with all texts, here")
    args = parser.parse_args(argv)
    from s3prl_pruned.data.corpus import embedded_corpus, read_split

    utterances = read_split(args.corpus or embedded_corpus(), args.split)[: args.limit]
    decoder = load_decoder(args.checkpoint)
    results = [evaluate(str(source), decoder, utterances) for source in args.models or [args.checkpoint]]
    columns = [Column(name, align="right") for name in ("sparsity", "WER", "95 %", "CER", "95 %", "seconds")]
    rows = [
        [
            result["model"][-40:],
            f"{100 * result['sparsity']:.1f} %",
            *(
                shown
                for rate in ("wer", "cer")
                for shown in (f"{result[rate][0]:.1f}", "{:.1f}-{:.1f}".format(*result[rate][1:]))
            ),
            f"{result['seconds']:.0f}",
        ]
        for result in results
    ]
    print(Table(["encoder", *columns], rows).text())
    if args.json is not None:
        write_text(args.json, json.dumps({"utterances": len(utterances), "results": results}, indent=1) + "\n")


def load_decoder(checkpoint: Path) -> Any:
    """Load OpenAI's model of a checkpoint, on the CPU; only its decoder will be used.

    Raises:
        UserError: if openai-whisper is not installed, or the file is no checkpoint of OpenAI's.
    """
    try:
        import whisper
    except ImportError as error:
        raise UserError(
            f"openai-whisper must be installed ({error}): pip install --no-deps openai-whisper && pip install tiktoken "
            "more-itertools numba"
        ) from error
    from s3prl_pruned.formats.unpickle import read_torch_file

    if not checkpoint.is_file():
        raise UserError(f"{checkpoint}: no such file. Give OpenAI's checkpoint, such as tiny.en.pt.")
    content = read_torch_file(checkpoint)
    if not {"dims", "model_state_dict"} <= content.keys():
        raise UserError(f"{checkpoint}: must be OpenAI's checkpoint with `dims` and `model_state_dict`, but is none.")
    model = whisper.model.Whisper(whisper.model.ModelDimensions(**content["dims"]))
    model.load_state_dict(content["model_state_dict"])
    if model.is_multilingual:
        raise UserError(f"{checkpoint}: must be of an English model, such as tiny.en.pt, but it is multilingual.")
    return model.eval().float()


def evaluate(source: str, decoder: Any, utterances: list) -> dict[str, Any]:
    """Decode a test set with one encoder.

    Args:
        source: a model as in `s3prl_pruned.load`.
        decoder: from `load_decoder`.
        utterances: `LabelledUtterance`s of at most 30 s.

    Returns:
        JSON data: the model, its realised sparsity, `wer` and `cer` (percent, low, high), seconds, the texts.

    Raises:
        UserError: if the model is no Whisper encoder of the decoder's width.
    """
    import whisper

    import s3prl_pruned
    from s3prl_pruned.data.corpus import normalize_transcript
    from s3prl_pruned.data.waveforms import read_waveform
    from s3prl_pruned.models.encoder import in_window

    loaded = s3prl_pruned.load(source)
    config, dims = loaded.encoder.config, decoder.dims
    if (config.max_frames, config.embed_dim) != (dims.n_audio_ctx, dims.n_audio_state):
        raise UserError(
            f"{source}: the decoder reads {dims.n_audio_ctx} frames of {dims.n_audio_state} dimensions, but this "
            f"{config.family} encoder has {config.max_frames} of {config.embed_dim}."
        )
    encoder = in_window(loaded.encoder, "padded")
    options = whisper.DecodingOptions(language="en", without_timestamps=True, fp16=False)
    texts, began = {}, time.perf_counter()
    for utterance in utterances:
        audio = whole_window(encoder, read_waveform(utterance.path))
        texts[utterance.id] = whisper.decode(decoder, audio, options)[0].text
    seconds = time.perf_counter() - began
    # words that the transcripts' rule cannot normalise (numbers in digits) count as errors
    found = {name: normalize_transcript(text) or text.upper() for name, text in texts.items()}
    info = loaded.info()
    return {
        "model": source,
        "sha256": loaded.sha256,
        "sparsity": info["sparsity"],
        "parameters": info["parameters"],
        **rates(found, {utterance.id: utterance.text for utterance in utterances}),
        "seconds": seconds,
        "texts": found,
    }


@torch.no_grad()
def whole_window(encoder: torch.nn.Module, wav: Tensor) -> Tensor:
    """The decoder's input: all frames of the padded window, (1, max_frames, D).

    Args:
        encoder: an encoder with padded windows.
        wav: (S,), at most one window.

    Raises:
        UserError: if the waveform is longer.
    """
    size = encoder.config.window_samples
    if len(wav) > size:
        raise UserError(f"an utterance must be at most {size} samples to be decoded at once, but has {len(wav)}.")
    return encoder(F.pad(wav, (0, size - len(wav)))[None]).hidden_states[-1]


def rates(found: dict[str, str], references: dict[str, str]) -> dict[str, list[float]]:
    """WER and CER in percent, each with its 95 % bootstrap interval over utterances (value, low, high).

    Args:
        found: hypotheses by utterance.
        references: references by utterance; the same utterances.
    """
    from s3prl_pruned.report.resampling import Resampled, interval, ratio
    from s3prl_pruned.superb.metrics.edits import edits_of

    names, result = sorted(references), {}
    for rate, units in (("wer", str.split), ("cer", list)):
        edits, lengths = zip(*(edits_of(units(found[name]), units(references[name])) for name in names), strict=True)
        sample = Resampled(pieces=tuple(names), kind="utterances", statistic=ratio(edits, lengths))
        result[rate] = [sample.value(), *interval(sample.draws())]
    return result


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    command_line(main)
