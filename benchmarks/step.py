"""One training step, ours compared with the straightforward one, side by side in one process.

    OMP_NUM_THREADS=1 python benchmarks/step.py              # WavLM Base's shape, 2 x 5 s, minutes
    OMP_NUM_THREADS=1 python benchmarks/step.py --closed 0.8 # as at the target sparsity
    python benchmarks/step.py --rounds 2 --layers 2          # only to check that it runs
    python benchmarks/step.py --device cuda --precision bf16 --shape paper --only a,b,d,e
    python benchmarks/step.py --device cuda --precision bf16 --shape embedded --only b,e

The straightforward step is a first implementation in s3prl: its WavLM as teacher in fp32 and again as student, the
student's weights multiplied by masks, torch's AdamW with defaults, a trained CNN. (a) Ours with the same mathematics:
the losses of the first steps are asserted to agree. (b) Ours with the CNN frozen and computed once for teacher and
student (`student.feature_grad_mult: 0`): another recipe, whose distillation loss is shown beside (a)'s. (c) As (a) with
gradient checkpointing. (d) and (e) with --compile: as (a) and (b), with layers and CNNs of both encoders under
torch.compile; closed units are then computed, not skipped, and a CPU's operators are counted as if not compiled.
Weights are random and the audio is noise: timings only, no training result. With --closed, gates of dimensions are
closed at random, unlike in a real run, and sublayers stay open. Steps are interleaved, so that a busy machine slows all
alike; ratios are computed round by round. On a CPU the process's own time is measured (all threads), not the time it
waits for a busy machine; on a GPU the wall time, from an idle GPU to an idle GPU. One more step of each is counted: on
a GPU its kernels, copies and waits by torch's profiler, and how long the GPU was busy; elsewhere its operators. Ends
with one JSON line.
"""

import argparse
import importlib.util
import json
import statistics
import tempfile
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.step_counts import counted
from s3prl_pruned.command_line import command_line
from s3prl_pruned.config import UserError
from s3prl_pruned.tables import Column, Table

VARIANTS = {
    "s": "(s) straightforward (s3prl's WavLM)",
    "a": "(a) ours, same mathematics",
    "b": "(b) ours, CNN frozen and shared",
    "c": "(c) as (a), gradient checkpointing",
    "d": "(d) as (a), compiled",
    "e": "(e) as (b), compiled",
}
SHAPES = {"base": (2, 5.0), "paper": (24, 15.6), "embedded": (8, 4.0)}
"""Utterances and their seconds: WavLM Base at a size for a CPU, as in the paper, and the embedded default."""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default: 5)")
    parser.add_argument(
        "--shape",
        choices=SHAPES,
        default="base",
        help="WavLM Base with 2 x 5 s (base) or 24 x 15.6 s (paper), or the embedded teacher with 8 x 4 s (embedded; "
        "its recipe's CNN is (b)'s) (default: base)",
    )
    parser.add_argument("--only", metavar="A,D", help=f"letters of the steps to take, of {','.join(VARIANTS)}")
    parser.add_argument("--batch", type=int, help="utterances (default: the shape's)")
    parser.add_argument("--seconds", type=float, help="of each (default: the shape's)")
    parser.add_argument(
        "--layers", type=int, default=12, help="of the encoder, a multiple of 2 (default: 12, WavLM Base)"
    )
    parser.add_argument(
        "--closed",
        type=float,
        default=0.0,
        help="share of the dimensions whose gates are closed: 0 as at the start of a run, 0.8 as from the end of the "
        "paper's ramp on (default: 0)",
    )
    parser.add_argument("--compile", action="store_true", help="compiled steps beside the others")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument(
        "--precision",
        choices=["fp32", "bf16", "fp16"],
        default="fp32",
        help="precision of our steps; the straightforward step stays fp32 (default: fp32)",
    )
    parser.add_argument("--tf32", action="store_true", help="use TF32 for fp32 on CUDA, as `runner.tf32`")
    args = parser.parse_args()
    batch, seconds = SHAPES[args.shape]
    args.batch, args.seconds = args.batch or batch, args.seconds or seconds
    args.only = chosen(args)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # s3prl uses torch's old weight_norm
        measure(args, Path(folder))


def chosen(args: argparse.Namespace) -> list[str]:
    """Letters of the steps to measure: by default all, without s3prl's if it is not installed."""
    if args.only:
        letters = args.only.replace(",", " ").split()
        if unknown := [letter for letter in letters if letter not in VARIANTS]:
            raise UserError(f"`--only` must name steps out of {','.join(VARIANTS)}, but holds {unknown[0]!r}.")
        return letters
    letters = [letter for letter in VARIANTS if letter not in "de" or args.compile]
    if importlib.util.find_spec("s3prl") is None:
        print("s3prl is not installed: the straightforward step is left out, and ratios are to the first of ours")
        letters.remove("s")
    return letters


def measure(args: argparse.Namespace, folder: Path) -> None:
    """Time all kinds of steps, interleaved, and print the results."""
    steps = steps_by_name(args, folder)
    generator = torch.Generator().manual_seed(0)
    wavs = 0.1 * torch.randn(args.batch, round(args.seconds * 16_000), generator=generator)
    batch = (wavs, torch.full((args.batch,), wavs.shape[1]))
    times: dict[str, list[float]] = {name: [] for name in steps}
    losses: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(args.rounds + 1):
        for name, step in steps.items():
            began = clock(args.device)
            read = step(batch)
            times[name].append(clock(args.device) - began)
            losses[name].append(read())
    same = [VARIANTS[letter] for letter in "sacd" if VARIANTS[letter] in steps]
    if args.precision == "fp32" and not args.tf32:
        for name in same[1:]:
            for one, other in zip(losses[name], losses[same[0]], strict=True):
                assert abs(one - other) <= 1e-4 * abs(other), f"{name}: {losses[name]} against {losses[same[0]]}"
    counts = {name: counted(step, batch, args.device) for name, step in steps.items()}
    report(args, times, losses, counts)


def clock(device: str) -> float:
    """Seconds: process time on a CPU; on a GPU wall time, after the GPU has finished."""
    if device == "cpu":
        return time.process_time()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter()


def report(args: argparse.Namespace, times: dict, losses: dict, counts: dict) -> None:
    """Print a table, and one JSON line."""
    layers = "the embedded teacher" if args.shape == "embedded" else f"{args.layers} layers, random weights"
    print(
        f"\n{layers}, {args.batch} x {args.seconds:g} s of noise, {args.device}, "
        f"{torch.get_num_threads()} thread(s), ours in {args.precision}, {args.rounds} rounds"
    )
    result = {
        "bench": "step",
        **vars(args),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "steps": {},
    }
    reference = next(iter(times))
    for name, seconds in times.items():
        seconds, base = seconds[1:], times[reference][1:]  # the first round allocates buffers
        ratios = [b / s for b, s in zip(base, seconds, strict=True)]
        row = {
            "seconds": statistics.median(seconds), "speed_up": statistics.median(ratios), "lowest": min(ratios),
            "highest": max(ratios), "losses": losses[name], **counts[name],
        }  # fmt: skip
        result["steps"][name] = row
    columns = [
        Column("step"),
        Column("seconds", "median s", align="right", show="{:.3f}"),
        Column("speed_up", "speed-up", align="right", show="{:.2f}"),
        Column("lowest", align="right", show="{:.2f}"),
        Column("highest", align="right", show="{:.2f}"),
        Column("losses", "last loss", align="right", show=lambda losses: f"{losses[-1]:.5f}"),
        *(Column(name, name.replace("_", " "), align="right") for name in next(iter(counts.values()))),
    ]
    print(Table(columns, [{"step": name, **row} for name, row in result["steps"].items()]).text())
    print(json.dumps(result))


def steps_by_name(args: argparse.Namespace, folder: Path) -> dict:
    """Functions of a batch that launch one optimiser step; each returns a function that reads the distillation loss."""
    from benchmarks.synthetic_audio import write_synthetic_corpus
    from s3prl_pruned.formats import microsoft
    from s3prl_pruned.models.dummies import random_encoder
    from s3prl_pruned.models.families import wavlm_base
    from s3prl_pruned.pretrain.config import LoopConfig, RunnerConfig
    from s3prl_pruned.pretrain.distill.config import ModelConfig, StudentConfig
    from s3prl_pruned.pretrain.distill.pretrain_expert import UpstreamPretrainExpert
    from s3prl_pruned.pretrain.distill.teachers import load_teacher
    from s3prl_pruned.pretrain.trainer import Trainer

    if args.shape == "embedded":
        encoder = load_teacher("embedded").encoder
    else:
        encoder = random_encoder(replace(wavlm_base(), num_layers=args.layers), seed=0)
    torch.save(microsoft.checkpoint(encoder), folder / "teacher.pt")
    write_synthetic_corpus(folder / "noise")
    student = StudentConfig(dropout=0.0, attention_dropout=0.0, activation_dropout=0.0)
    model = ModelConfig(teacher=str(folder / "teacher.pt"), student=student)
    model.distill.num_pairs = min(4, encoder.config.num_layers)
    loop = LoopConfig(
        fp16=args.precision == "fp16", bf16=args.precision == "bf16", total_steps=1000, compile=False, tf32=args.tf32
    )

    data = {"corpus": str(folder / "noise"), "train_batch_size": args.batch, "max_seconds": args.seconds}
    data["min_seconds"] = min(1.0, args.seconds)

    def ours(model: ModelConfig = model, **more: bool):
        runner = RunnerConfig(runner=replace(loop, **more))
        expert = UpstreamPretrainExpert(data, model, args.device, seed=0)
        close(expert.model.gates, args.closed)
        trainer = Trainer(expert, runner, seed=0)

        def step(batch):
            trainer.start([batch])
            return lambda: trainer.finished(wait=True)[-1]["distill"]

        return step

    def straightforward():
        from s3prl_pruned import compat

        compat.apply()
        step = Straightforward(model, RunnerConfig(runner=loop), folder, args).step
        return lambda batch: partial(float, step(batch))

    frozen = replace(model, student=replace(student, feature_grad_mult=0.0))
    makers = {
        "s": straightforward,
        "a": ours,
        "b": lambda: ours(frozen),
        "c": lambda: ours(gradient_checkpointing=True),
        "d": lambda: ours(compile=True),
        "e": lambda: ours(frozen, compile=True),
    }
    return {VARIANTS[letter]: makers[letter]() for letter in args.only}


def close(gates: torch.nn.Module, share: float) -> None:
    """Close a share of the fine gates, at random; whole sublayers stay open."""
    generator = torch.Generator().manual_seed(0)
    for _, name, gate in gates.items():
        if name in ("z_qk", "z_vo", "z_int"):
            closed = torch.rand(gate.log_alpha.shape, generator=generator) < share
            gate.log_alpha.data[closed] = -gates.config.max_log_alpha


class Straightforward:
    """A first implementation with s3prl's own WavLM; gates, objective and Lagrangian are the same functions as ours."""

    def __init__(self, model, runner, folder: Path, args: argparse.Namespace):
        from s3prl.upstream.wavlm.expert import UpstreamExpert

        from s3prl_pruned.formats.registry import read
        from s3prl_pruned.gates.attach import GateSet
        from s3prl_pruned.models.spec import CompactSpec
        from s3prl_pruned.objectives.distill import LayerDistillation
        from s3prl_pruned.sparsity.lagrangian import Lagrangian

        device = args.device
        self.model, self.runner, self.device, self.count = model, runner, device, 0
        self.shape = read(folder / "teacher.pt").encoder.config
        self.teacher, self.student = (
            UpstreamExpert(str(folder / "teacher.pt")).model.to(device).eval() for _ in range(2)
        )
        self.teacher.requires_grad_(False)
        self.student.feature_grad_mult = model.student.feature_grad_mult
        self.call = _States(self.student)
        self.distillation = LayerDistillation(
            num_layers=self.shape.num_layers, embed_dim=self.shape.embed_dim, config=model.distill
        ).to(device)
        self.gates = GateSet(CompactSpec.dense(self.shape), model.gates).to(device)
        close(self.gates, args.closed)
        self.lagrangian = Lagrangian().to(device)
        adam = runner.optimizer
        self.weights = [*self.student.parameters(), *self.distillation.parameters()]
        self.optimizers = [
            torch.optim.AdamW(self.weights, lr=adam.lr, betas=adam.betas, eps=adam.eps, weight_decay=adam.weight_decay),
            torch.optim.AdamW(self.gates.parameters(), lr=adam.gate_lr, weight_decay=0.0),
            torch.optim.Adam(self.lagrangian.parameters(), lr=adam.multiplier_lr, maximize=True),
        ]

    def step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """One optimiser step; returns its loss, a scalar."""
        from s3prl_pruned.objectives.matching import match_layers
        from s3prl_pruned.sparsity.expected import expected_sparsity

        self.count += 1
        total = self.runner.runner.total_steps
        wavs = batch[0].to(self.device)
        draw = self.gates.draw(torch.Generator().manual_seed(self.count))  # as the expert's for seed 0
        with torch.no_grad():
            teacher = _States(self.teacher)(wavs)
        student = torch.func.functional_call(self.call, self._masked(draw.masks), (wavs,))
        valid = torch.ones(student[0].shape[:2], dtype=torch.bool, device=self.device)
        pairs = match_layers(self.distillation.errors(student, teacher, valid).tolist(), draw.existing_layers())
        loss = self.distillation(student, teacher, valid, pairs).sum() / valid.sum()
        loss.backward()
        draw.backward(draw.gradient())
        expected = expected_sparsity(self.gates, self.shape)
        self.lagrangian(expected, self.model.sparsity.target_at(self.count, total)).backward()
        for group in self.optimizers[0].param_groups:
            group["lr"] = self.runner.optimizer.lr * self.runner.optimizer.lr_factor(self.count, total)
        torch.nn.utils.clip_grad_norm_(self.weights, self.runner.runner.gradient_clipping)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.gates.clamp()
        return loss.detach()

    def _masked(self, masks) -> dict[str, torch.Tensor]:
        """The student's parameters, with weights and biases multiplied by their masks."""
        result = {f"wavlm.{name}": value for name, value in self.student.named_parameters()}
        for i in range(self.shape.num_layers):
            layer = f"wavlm.encoder.layers.{i}"
            z_mha, z_qk, z_vo, z_ffn, z_int = (masks[i, f"z_{kind}"] for kind in ("mha", "qk", "vo", "ffn", "int"))
            scales = {
                "self_attn.q_proj": (z_qk[:, None], z_qk),
                "self_attn.v_proj": (z_vo[:, None], z_vo),
                "self_attn.out_proj": (z_mha, z_mha),
                "fc2": (z_int[None, :] * z_ffn, z_ffn),
            }
            for name, (weight, bias) in scales.items():
                result[f"{layer}.{name}.weight"] = result[f"{layer}.{name}.weight"] * weight
                result[f"{layer}.{name}.bias"] = result[f"{layer}.{name}.bias"] * bias
        return result


class _States(torch.nn.Module):
    """s3prl's WavLM as a module whose forward returns L + 1 states (B, T, D)."""

    def __init__(self, wavlm):
        super().__init__()
        self.wavlm = wavlm

    def forward(self, wavs: torch.Tensor) -> list[torch.Tensor]:
        last = len(self.wavlm.encoder.layers)
        (_, results), _ = self.wavlm.extract_features(wavs, output_layer=last, ret_layer_results=True)
        return [state.transpose(0, 1) for state, _ in results]


if __name__ == "__main__":
    command_line(main)
