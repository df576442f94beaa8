"""How well a linear map predicts the embedded teacher's states from those of a smaller model.

For choosing between recipes.

    python benchmarks/readout.py result/pretrain/wavlm_pruned_distill/embedded/export [EXPORT ...]

R2 of a ridge regression from all concatenated states of a model to each state of the teacher, fitted on utterances of
the embedded corpus's `train`, measured on its `dev`. Unlike a task it has no training that depends on a seed, and
unlike the distillation loss it is the same measure for all losses, pairs and maps in training.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from s3prl_pruned.command_line import command_line
from s3prl_pruned.tables import Column, Table


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exports", nargs="+", type=Path, help="folders of models pruned from the embedded teacher")
    parser.add_argument(
        "--utterances", type=int, default=60, help="of each split, spread over it (default: %(default)s)"
    )
    args = parser.parse_args()
    from s3prl_pruned.data.corpus import embedded_corpus, read_split
    from s3prl_pruned.data.waveforms import read_waveform
    from s3prl_pruned.formats.folder import load_encoder
    from s3prl_pruned.formats.registry import read
    from s3prl_pruned.pretrain.distill.teachers import EMBEDDED_TEACHER

    splits = {}
    for split in ("train", "dev"):
        utterances = read_split(embedded_corpus(), split)
        chosen = utterances[:: max(1, len(utterances) // args.utterances)][: args.utterances]
        splits[split] = [read_waveform(utterance.path) for utterance in chosen]
    teacher = read(EMBEDDED_TEACHER).encoder.eval()
    wanted = {split: states(teacher, wavs) for split, wavs in splits.items()}
    rows = []
    for export in args.exports:
        found = {split: torch.cat(states(load_encoder(export)[0], wavs), 1) for split, wavs in splits.items()}
        scores = [
            r_squared(found["train"], a, found["dev"], b) for a, b in zip(wanted["train"], wanted["dev"], strict=True)
        ]
        rows.append([str(export)[-39:], *scores, sum(scores) / len(scores)])
    states_of_teacher = [str(k) for k in range(len(wanted["dev"]))]
    columns = [Column(name, align="right", show="{:.3f}") for name in (*states_of_teacher, "mean")]
    print(Table(["teacher state", *columns], rows).text())


@torch.no_grad()
def states(encoder: torch.nn.Module, wavs: list[Tensor]) -> list[Tensor]:
    """Hidden states of all utterances, encoded one at a time: L + 1 of (frames, D), float64."""
    each = [encoder.encode_raw(wav[None]).hidden_states for wav in wavs]
    return [torch.cat([state[0] for state in layer]).double() for layer in zip(*each, strict=True)]


def r_squared(x: Tensor, y: Tensor, new_x: Tensor, new_y: Tensor, *, ridge: float = 1e-2) -> float:
    """R2 on (new_x, new_y) of a ridge regression fitted on (x, y); (frames, dimensions) each.

    Args:
        x: inputs for fitting.
        y: outputs for fitting.
        new_x: inputs to test on.
        new_y: outputs to test on.
        ridge: penalty, relative to the mean variance of x.
    """
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    covariance = x.T @ x
    penalty = ridge * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=x.dtype)
    weights = torch.linalg.solve(covariance + penalty, x.T @ y)
    error = new_y - y_mean - (new_x - x_mean) @ weights
    return 1 - float(error.square().sum() / (new_y - new_y.mean(0)).square().sum())


if __name__ == "__main__":
    command_line(main)
