"""`make gpu`: a failing part loses only its own numbers; its tables; and that everything runs, on a CPU."""

import json

import pytest

from benchmarks import gpu
from benchmarks.gpu_parts import GpuPart, parts
from benchmarks.gpu_report import markdown
from s3prl_pruned.config import UserError


def part(name, code, *, limit_s=60.0, codes=(0, 1)):
    return GpuPart(name=name, title=f"the part {name}", command=["-c", code], limit_s=limit_s, codes=codes)


def test_a_part_that_fails_or_hangs_loses_only_its_own_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "_SHORTEST_S", 0.5)
    hang = "import subprocess, sys, time; print('{\"rows\": []}', flush=True); print('{\"ro', flush=True); "
    hang += (
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)']); print(child.pid, flush=True)"
    )
    chosen = [
        part("first", 'print(\'{"summary": "1 passed", "failed": []}\')'),
        part("fails", "raise SystemExit('no such kernel')"),
        part("silent", "pass"),
        part("hangs", hang + "; time.sleep(99)", limit_s=5),
        part("partly", 'print(\'{"results": [], "lost": []}\'); raise SystemExit(1)'),
        part("strict", "print('{}'); raise SystemExit(1)", codes=(0,)),
    ]
    data = gpu.measure(chosen, tmp_path / "out", device="cpu", quick=True)
    reasons = {name: found["reason"] for name, found in data["parts"].items()}
    assert reasons == {
        "first": None,
        "fails": "exit status 1: no such kernel",
        "silent": "exit status 0: no output",
        "hangs": "ended after its 5 s; the results until then are kept",
        "partly": None,
        "strict": "exit status 1: no output",
    }
    assert data["parts"]["hangs"]["result"] == {"rows": []}
    assert json.loads((tmp_path / "out" / "gpu.json").read_text()) == data
    text = markdown(data)
    assert "- fails: exit status 1: no such kernel" in text and "no result" in text


def test_no_part_starts_after_the_time_limit(tmp_path):
    data = gpu.measure([part("late", "print('{}')")], tmp_path, device="cpu", quick=True, budget_s=5)
    assert data["parts"]["late"]["reason"] == "not begun: no time was left"


def test_ratios_are_to_the_baseline_in_its_fastest_precision():
    def row(name, ratio, seconds):
        return {
            "name": name, "workload": "5 s", "ratio": ratio, "seconds": seconds, "precision": name[-4:],
            "peak_bytes": 2**30,
        }  # fmt: skip

    def found(*rows):
        result = {"results": rows, "lost": [{"name": "x", "workload": None, "reason": "it is not here"}]}
        return {"title": "", "command": [], "seconds": 1, "reason": None, "result": result}

    data = {
        "device": "cuda", "quick": False, "baseline": "s3prl:wavlm_base", "date": "2026-11-28",
        "parts": {
            "inference_fp32": found(row("s3prl:wavlm_base+fp32", 1.0, 0.010), row("ours:conc+fp32", 2.0, 0.005)),
            "inference_bf16": found(
                row("s3prl:wavlm_base+fp32", 1.0, 0.010), row("s3prl:wavlm_base+bf16", 1.6, 0.00625),
                row("ours:conc+bf16", 8.0, 0.00125),
            ),
        },
    }  # fmt: skip
    text = markdown(data)
    assert "| ours:conc+bf16 | 5.00 (1.25 ms) |" in text and "| ours:conc+fp32 | 1.25 (5.00 ms) |" in text
    assert "5 s: bf16" in text and "- x (inference_fp32): it is not here" in text


def test_parts_have_unique_names_and_fit_into_the_time_limit():
    for device, quick in (("cuda", False), ("cpu", True)):
        found = parts(device, quick=quick)
        assert len({one.name for one in found}) == len(found) == (7 if quick else 10)
        assert all(one.limit_s <= 120 for one in found)


def test_wrong_options_are_refused(tmp_path):
    with pytest.raises(UserError, match="`parts` must be of"):
        gpu.main(["--output", str(tmp_path), "--parts", "inference"])
    with pytest.raises(UserError, match="nowhere to write to"):
        gpu.main([])
    (tmp_path / "gpu.json").write_text("{}")
    with pytest.raises(UserError, match="never overwritten"):
        gpu.main(["--output", str(tmp_path)])


def test_it_runs_on_a_cpu(tmp_path, capsys):
    gpu.main(["--output", str(tmp_path / "look"), "--device", "cpu", "--quick", "--parts", "inference_fp32,errors"])
    text = (tmp_path / "look" / "gpu.md").read_text()
    assert "## Inference" in text and "ours:wavlm_embedded+fp32" in text and "## Lost" not in text
    gpu.main(["--table", str(tmp_path / "look" / "gpu.json")])
    assert text.strip() in capsys.readouterr().out


@pytest.mark.slow
def test_every_part_runs_on_a_cpu(tmp_path):
    gpu.main(["--output", str(tmp_path / "look"), "--device", "cpu", "--quick"])
