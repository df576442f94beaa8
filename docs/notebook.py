# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---
# ruff: noqa: D100, D103  (the text between the cells says what they do)

# %% [markdown]
# # Notebook: from a wav file to a smaller model
#
# This page is a script with cells, `docs/notebook.py`. It prunes the small teacher that comes with the repository, and
# shows what pruning does to the model's structure, its hidden states, its time and its size. No GPU and no download are
# needed. It takes about ten minutes on two cores.
#
# - **VS Code** opens the script as it is: click *Run Cell*.
# - **Jupyter**: `pip install jupytext`, then open `docs/notebook.py` with *Open With > Notebook*.
#   `jupytext --to ipynb docs/notebook.py` makes a notebook file of it.
# - **Without either**: `python docs/notebook.py` runs all cells, prints the tables, and writes the pictures to
#   `result/notebook/`. `NOTEBOOK_STEPS=20` in the environment makes it quick, and the model bad.
#
# The pictures and numbers on this page are of a run with 500 steps on an Intel Xeon, 2026-11-28.

# %%
import os
import statistics
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import s3prl_pruned
from s3prl_pruned.data.corpus import embedded_corpus, read_split
from s3prl_pruned.data.waveforms import read_waveform
from s3prl_pruned.pretrain.command import main as pretrain
from s3prl_pruned.pretrain.logging import read_log
from s3prl_pruned.report.live import draw_remaining

STEPS = int(os.environ.get("NOTEBOOK_STEPS", "500"))
FOLDER = Path("result/notebook")
FOLDER.mkdir(parents=True, exist_ok=True)


def keep(figure, name):
    figure.savefig(FOLDER / f"{name}.png", dpi=100)
    print(f"picture: {FOLDER / name}.png")


# %% [markdown]
# ## A wav file and the teacher's hidden states
#
# Put the path of your own file in place of the test utterance if you like. `load` also takes `wavlm_base_plus`, a
# checkpoint, or an exported model.

# %%
test = read_split(embedded_corpus(), "test")
wav = read_waveform(test[0].path)  # (S,), 16 kHz, mono
print(f"{len(wav) / 16_000:.1f} s: {test[0].text}")

teacher = s3prl_pruned.load("embedded")
states = teacher.extract(wav)  # (L + 1, T, D)
print("states:", tuple(states.shape), "parameters:", teacher.info()["parameters"])

# %% [markdown]
# ## Prune, and watch the sparsity climb
#
# The student starts as a copy of the teacher, with a gate on every attention dimension, feed-forward dimension and
# sublayer. It learns from the teacher's hidden states, while the target sparsity rises from 0 to 80 %. `expected` is
# the expectation of the sparsity under the gates' distribution, `realised` the sparsity of the masks that these gates
# give without noise. In the last fifth of the steps the masks are fixed, and the weights adapt to them.
#
# This is `python run_pretrain.py -u wavlm_pruned_distill` as a function call. At every checkpoint `show` prints a line,
# and in a notebook it also shows what is left of each layer.

# %%
try:
    from IPython.display import Image, clear_output, display

    get_ipython()  # exists in notebooks only
    NOTEBOOK = True
except (ImportError, NameError):
    NOTEBOOK = False


def show(folder):
    picture = draw_remaining(folder)
    if NOTEBOOK:
        clear_output(wait=True)
        display(Image(filename=picture))
    line = read_log(folder)[-1]
    kinds = ("target", "expected", "realised")
    sparsities = ", ".join(f"{kind} {100 * line[f'{kind}_sparsity']:.1f} %" for kind in kinds)
    print(f"step {line['step']}: {sparsities}, distillation loss {line['distill']:.3f}")


save_step = max(1, STEPS // 10)
overrides = f"runner.total_steps={STEPS},,runner.save_step={save_step},,runner.log_step={max(1, STEPS // 50)}"
run = pretrain(
    ["-u", "wavlm_pruned_distill", "-p", str(FOLDER / f"{STEPS}_steps"), "-a", "-o", overrides], on_checkpoint=show
)

# %%
log = read_log(run)
steps = [line["step"] for line in log]
figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
for kind, style in (("target", "k--"), ("expected", "C0"), ("realised", "C1")):
    axes.plot(steps, [100 * line[f"{kind}_sparsity"] for line in log], style, label=kind)
axes.set(xlabel="step", ylabel="sparsity, %")
loss = axes.twinx()
loss.plot(steps, [line["distill"] for line in log], "C2:", label="distillation loss")
loss.set_ylabel("distillation loss")
figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=9)
keep(figure, "sparsity")

# %% [markdown]
# ![Sparsity and distillation loss by step](assets/notebook/sparsity.png)
#
# ## The smaller model
#
# The export holds no masks and no zeros: the matrices are smaller. Each row of the picture is a layer.

# %%
student = s3prl_pruned.load(run / "export")
before, after = teacher.info(), student.info()
for name in ("parameters", "macs_5s"):
    print(f"{name}: {before[name]:,} -> {after[name]:,}, {before[name] / after[name]:.2f} times fewer")
print("layer  heads  feed-forward dimensions")
for number, (old, new) in enumerate(zip(before["layers"], after["layers"], strict=True), start=1):
    print(f"{number:5d}  {len(old['heads'])} -> {len(new['heads'])}  {old['ffn']} -> {new['ffn']}")

# %%
rows = [
    [
        sum(sum(dims) for dims in new["heads"].values()) / sum(sum(dims) for dims in old["heads"].values()),
        new["ffn"] / old["ffn"],
    ]
    for old, new in zip(before["layers"], after["layers"], strict=True)
]
figure, axes = plt.subplots(figsize=(4, 3), layout="constrained")
axes.imshow(rows, cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower")
for number, row in enumerate(rows):
    for column, share in enumerate(row):
        axes.text(column, number, f"{100 * share:.0f} %", ha="center", va="center", color="C3")
axes.set_xticks([0, 1], ["attention dimensions", "feed-forward dimensions"])
axes.set_yticks(range(len(rows)), range(1, len(rows) + 1))
axes.set(ylabel="layer", title="What is left")
keep(figure, "structure")

# %% [markdown]
# ![What is left of each layer](assets/notebook/structure.png)
#
# In the run shown, layers 1 and 4 have lost their attention, and layers 2 and 5 their feed-forward.
#
# ## Its states beside the teacher's
#
# How much of each teacher state can a linear map read from the student's state of the same number? The map is fitted on
# 30 utterances of the training set, and R2 is measured on 15 of the test set: 1 is all, 0 is no better than the mean.
# Where a layer has lost both of its sublayers, its state is the one before it.


# %%
def frames(model, utterances):
    each = [model.extract(utterance.path) for utterance in utterances]
    return torch.cat(each, dim=1).double()  # (L + 1, frames, D)


train = read_split(embedded_corpus(), "train")[::20][:30]
fit, held_out = [(frames(teacher, part), frames(student, part)) for part in (train, test[:15])]


def with_bias(x):
    return torch.cat([x, torch.ones_like(x[:, :1])], dim=1)


readable = []
for layer in range(len(states)):
    x, y = with_bias(fit[1][layer]), fit[0][layer]
    ridge = x.T @ x + 1e-3 * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    linear = torch.linalg.solve(ridge, x.T @ y)
    wanted = held_out[0][layer]
    error = (with_bias(held_out[1][layer]) @ linear - wanted).square().sum()
    readable.append(float(1 - error / (wanted - y.mean(0)).square().sum()))
    print(f"state {layer}: R2 {readable[-1]:.3f}")

# %%
DIMS = 48  # of 256
last = student.extract(wav)[-1].double()
pictures = {"teacher, last state": states[-1], "student's, through the linear map": with_bias(last) @ linear}
figure, axes = plt.subplots(2, 1, figsize=(7, 4.2), layout="constrained", sharex=True)
for part, (title, picture) in zip(axes, pictures.items(), strict=True):
    seconds = len(wav) / 16_000
    part.imshow(picture[:, :DIMS].T, aspect="auto", cmap="RdBu", vmin=-2, vmax=2, extent=(0, seconds, 0, DIMS))
    part.set(title=title, ylabel="dimension")
axes[-1].set_xlabel("seconds")
keep(figure, "states")

# %% [markdown]
# ![Last state of teacher and student](assets/notebook/states.png)
#
# In the run shown, R2 is 0.997 for state 0, and 0.952, 0.869, 0.893, 0.866, 0.780 and 0.753 for the layers' outputs.
#
# ## Time and size
#
# The two models take turns, so that a busy moment of the machine hits both. `tools/timing.py` measures with more care:
# threads, batches, precisions, and how much the ratio varies.

# %%
torch.set_num_threads(1)
audio = torch.randn(5 * 16_000) / 10  # 5 s
times = {"teacher": [], "student": []}
for _ in range(12):
    for name, model in (("teacher", teacher), ("student", student)):
        start = time.perf_counter()
        model.extract(audio)
        times[name].append(time.perf_counter() - start)
ratio = statistics.median(a / b for a, b in zip(*times.values(), strict=True))
for name, model in (("teacher", teacher), ("student", student)):
    megabytes = 4 * model.info()["parameters"] / 1e6
    print(f"{name}: {1000 * statistics.median(times[name][2:]):.0f} ms for 5 s of audio, {megabytes:.1f} MB in fp32")
print(f"{ratio:.2f} times as fast")

# %% [markdown]
# ## Where to go from here
#
# - The same for WavLM Base and your corpus: [Prune a model](prune.md).
# - What the hidden states are worth in tasks: [Run SUPERB](superb.md).
# - ONNX, int8, Hugging Face: [Deploy](deploy.md).
