"""Suites whose run_downstream.py is a fake."""

import json
from pathlib import Path

from s3prl_pruned.commands.run_suite import run_suite
from s3prl_pruned.plan.models import ComparedModel
from s3prl_pruned.plan.suite import Suite, parse_tasks

REPO = Path(__file__).resolve().parents[2]
FAKE = '''
"""Writes what run_downstream.py would, of a task whose dev value depends on the learning rate."""
import json, os, re, sys, time
from pathlib import Path
from s3prl_pruned.config import to_dict
from s3prl_pruned.superb.results.trained import TrainedRun, read_choice
from s3prl_pruned.superb.results.result import Checkpoint, Part, Result, Seconds, Upstream, write_json, write_result
from s3prl_pruned.superb.catalogue import TASKS, Value

option = lambda name, default=None: sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default
task, folder, text = TASKS[option("-d")], Path(option("-p")), option("-o", "")
with open("calls", "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
if (folder / "result.json").exists():
    sys.exit(print("finished before"))
if Path("broken").exists() and task.name == Path("broken").read_text():
    print("error: no such corpus", file=sys.stderr); sys.exit(2)
folder.mkdir(parents=True, exist_ok=True)
if option("-m") == "train":
    for step in (5, 10, 15):
        path = folder / f"states-{step}.ckpt"; path.touch(); os.utime(path, (0, 1000 + step + 20 * (step == 15)))
rate = re.search(r"optimizer.lr=([^,]+)", text)
distance = abs(float(rate[1]) - 0.01) if rate else 0.5  # 0.01 is best
metric = task.metrics[0]
worse = 40 * distance * (1 if metric.better == "down" else -1)
value = lambda dev: Value(name=metric.name, value=min(50 + worse + dev, 99), unit="percent")
unchanged = task.name == "sv" or rate and float(rate[1]) < 1e-8
dev = Value(name="acc", value=55 - 40 * distance, unit="percent") if task.name == "sd" else value(5)
folds = task.name == "er"
if option("-m") == "train":
    write_json(folder / "trained.json", to_dict(TrainedRun(
        task=task.name, seed=int(option("--seed")), protocol="official", steps=10,
        upstream=Upstream(name=option("-u"), sha256=option("-k")),
        dev=[None if unchanged else dev] * (5 if folds else 1),
    )))
    sys.exit()
(folder / "run.json").touch()
checkpoint = Checkpoint(file="dev-best.ckpt", step=4, rule="best", dev=None if unchanged else dev)
part = Part(
    name="fold1", split="test", num_utterances=3, metrics=[value(0)], printed_by_s3prl=[], checkpoint=checkpoint,
    seconds=Seconds(evaluate=1)
)
choice = read_choice(Path(option("--tried-rates"))) if "--tried-rates" in sys.argv else None
protocol = re.search(r"config.protocol=(\\w+)", text)
write_result(folder / "result.json", Result(
    task=task.name, split=task.test_split, num_utterances=3, metrics=[value(int(option("--seed")) % 2)],
    printed_by_s3prl=[], protocol=protocol[1] if protocol else "official",
    upstream=Upstream(name=option("-u"), sha256=option("-k")),
    tried_rates=choice.with_metrics([value(0)]) if choice else None,
    checkpoint=None if folds else checkpoint, parts=[part] * 5 if folds else None, seed=int(option("--seed")),
))
'''


def suite(tasks="asr,ks", *, models=("fbank",), seeds=(1,), **fields):
    return Suite(models=tuple(map(ComparedModel.parse, models)), tasks=parse_tasks(tasks), seeds=seeds, **fields)


def main(suite, **fields):
    fields = {"parallel": 2, "probe": False, "dry_run": False, "scheduler": None, "jobs_dir": Path("jobs"), **fields}
    return run_suite(suite, **fields)


def calls():
    return [json.loads(line) for line in Path("calls").read_text().splitlines()]
