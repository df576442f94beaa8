"""Clusters of a teacher's layers with similar states, for `distill.clusters` (Zampierin et al. 2024, SKILL).

    python -m benchmarks.layer_clusters embedded --clusters 3
    python -m benchmarks.layer_clusters wavlm_base_plus --corpus /data/LibriSpeech/dev-clean --utterances 100

States are compared by linear CKA (Kornblith et al. 2019, eq. 1) over the frames of the utterances. Starting from single
layers, the two neighbouring clusters with the most similar states on average are merged. Prints the similarities and
the option. Here a cluster is a run of consecutive layers, so that it has a place in the depth.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from s3prl_pruned.command_line import command_line


def make_parser() -> argparse.ArgumentParser:
    """The parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", help="a checkpoint, or a name of s3prl's hub, or embedded")
    parser.add_argument("--corpus", type=Path, help="folder of audio (default: the embedded dev set)")
    parser.add_argument("--clusters", type=int, default=4, help="how many (default: %(default)s)")
    parser.add_argument("--utterances", type=int, default=50, help="spread over the corpus (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="torch device (default: %(default)s)")
    return parser


def similarities(states: Tensor) -> Tensor:
    """Linear CKA of every pair of states: (L, N, D) of N frames -> (L, L), from 0 to 1."""
    centred = (states - states.mean(1, keepdim=True)).double()
    products = torch.stack([(centred[i].T @ centred).square().sum((1, 2)) for i in range(len(states))])
    norms = products.diagonal().sqrt()
    return products / (norms[:, None] * norms)


def clusters_of(similarity: Tensor, number: int) -> list[list[int]]:
    """Cluster neighbouring states 1 to L: the two clusters that are most similar on average are merged first.

    Args:
        similarity: (L, L), of states 1 to L.
        number: number of clusters in the result.
    """
    clusters = [[i] for i in range(len(similarity))]
    while len(clusters) > number:
        alike = [float(similarity[one][:, other].mean()) for one, other in pairwise(clusters)]
        place = max(range(len(alike)), key=alike.__getitem__)
        clusters[place : place + 2] = [clusters[place] + clusters[place + 1]]
    return [[i + 1 for i in cluster] for cluster in clusters]


@torch.no_grad()
def main() -> None:
    """The command."""
    args = make_parser().parse_args()
    from s3prl_pruned.config import UserError
    from s3prl_pruned.data.corpus import embedded_corpus
    from s3prl_pruned.data.listing import files_below
    from s3prl_pruned.features.loaded import load

    encoder = load(args.teacher, device=args.device, states="s3prl")
    layers = encoder.encoder.config.num_layers
    if not 1 <= args.clusters <= layers:
        raise UserError(f"`--clusters` must be from 1 to the teacher's {layers} layers, but is {args.clusters}.")
    if args.utterances < 1:
        raise UserError(f"`--utterances` must be at least 1, but is {args.utterances}.")
    found = files_below([args.corpus or embedded_corpus() / "dev"])
    chosen = found[:: max(1, len(found) // args.utterances)][: args.utterances]
    if not chosen:
        raise UserError(f"{args.corpus}: holds no audio file.")
    states = torch.cat([encoder.extract(path)[1:].cpu() for path in chosen], 1)  # (L, frames, D)
    similarity = similarities(states)
    print(
        f"{args.teacher}: linear CKA of its {layers} layers over {states.shape[1]} frames of {len(chosen)} utterances"
    )
    for i, row in enumerate(similarity.tolist(), 1):
        print(f"{i:>3}  " + " ".join(f"{value:.2f}" for value in row))
    clusters = str(clusters_of(similarity, args.clusters)).replace(" ", "")
    print(f"\n-o distill.clusters={clusters}")


if __name__ == "__main__":
    command_line(main)
