"""Run a plan's jobs here: several at a time, continuing after failures, and stopped together."""

import fcntl
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Sequence

from s3prl_pruned.command_line import STOP_SIGNALS, Interrupted, stop_signals
from s3prl_pruned.plan.devices import Devices
from s3prl_pruned.plan.jobs import Failure, Job, Report, duration, levels, remaining_seconds

POLL_SECONDS = 0.1
REPORT_SECONDS = 600
"""A line on the running jobs is printed at least this often."""


def run(jobs: Sequence[Job], *, parallel: int = 1, devices: Devices | None = None) -> Report:
    """Run unfinished jobs, `parallel` at a time. A job that fails stops only those that wait for it.

    Args:
        jobs: the plan's jobs.
        parallel: jobs that run at a time.
        devices: GPUs; each job that needs one gets the least busy, or waits until one is free.

    Raises:
        UserError: if the plan is inconsistent (`levels`).
        Interrupted: by one of `STOP_SIGNALS`, which was forwarded to the child processes; they have ended.
    """
    levels(jobs)
    return _Run(jobs, parallel, devices or Devices()).to_the_end()


class _Run:
    def __init__(self, jobs: Sequence[Job], parallel: int, devices: Devices):
        self.jobs, self.parallel, self.devices = jobs, parallel, devices
        self.waiting = list(jobs)
        self.device_of: dict[str, str] = {}  # by the running job's name
        self.running: list[tuple[Job, subprocess.Popen, float]] = []  # with the time of the start
        self.report = Report()
        self.signals: list[int] = []  # received; handled later, so that no child is lost half started

    def to_the_end(self) -> Report:
        handlers = {}
        if threading.current_thread() is threading.main_thread():  # only it gets signals
            for number in stop_signals():
                handlers[number] = signal.signal(number, lambda received, _: self.signals.append(received))
        try:
            reported_at = time.monotonic()
            while self.waiting or self.running:
                if self.signals:
                    self._stop()
                self._start_what_can()
                if not self._collect():
                    time.sleep(POLL_SECONDS)
                if self.running and time.monotonic() - reported_at > REPORT_SECONDS:
                    self._say(f"running: {', '.join(job.name for job, *_ in self.running)}")
                    reported_at = time.monotonic()
            return self.report
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _start_what_can(self) -> None:
        for job in list(self.waiting):
            failed = [name for name in job.after if name in self.report.failures]
            kept = job.finished() and not job.recheck
            hopeless = failed and not job.even_after_failure
            device = self.devices.least_busy(list(self.device_of.values())) if job.uses_device else None
            room = len(self.running) < self.parallel and not (job.uses_device and self.devices.names and device is None)
            ready = set(job.after) <= self.report.ended() and room
            if not (kept or hopeless or ready):
                continue
            self.waiting.remove(job)
            if kept:
                self.report.kept.append(job.name)
            elif hopeless:
                self._fail(job, f"not called, since {failed[0]} failed", None)
            else:
                self._start(job, device)

    def _start(self, job: Job, device: str | None) -> None:
        seen = {} if device is None else {"CUDA_VISIBLE_DEVICES": device}
        try:
            job.log.parent.mkdir(parents=True, exist_ok=True)
            with open(job.log, "a", encoding="utf-8", errors="surrogateescape") as log:
                # The command inherits the lock, which so is held as long as it lives, even if we are killed first.
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
                print(_header(job), end="", file=log, flush=True)
                process = subprocess.Popen(
                    job.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                    env={**os.environ, **seen, **job.settings}, start_new_session=True,  # to signal the whole group
                )  # fmt: skip
        except BlockingIOError:
            self._fail(job, "is already being run by another call", 2)
        except OSError as error:
            self._fail(job, f"cannot be started ({error})", 2)
        else:
            self.running.append((job, process, time.monotonic()))
            if device is not None:
                self.device_of[job.name] = device
            self._say(f"{job.name}: started" + (f" on GPU {device}" if device is not None else ""))

    def _collect(self) -> bool:
        """Record jobs that have ended; returns whether any did."""
        ended = [entry for entry in self.running if entry[1].poll() is not None]
        for job, process, started in ended:
            self.running.remove((job, process, started))
            self.device_of.pop(job.name, None)
            status, seconds = process.returncode, time.monotonic() - started
            if status:
                how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
                self._fail(job, f"{how}: {_last_line(job)}", status)
            elif job.done and not job.finished():
                self._fail(job, f"ended well, but without {job.done}", 0)
            else:
                self.report.seconds[job.name] = seconds
                self._say(f"{job.name}: done in {duration(seconds)}")
        return bool(ended)

    def _fail(self, job: Job, reason: str, status: int | None) -> None:
        self.report.failures[job.name] = Failure(job, reason, status)
        self._say(f"{job.name}: FAILED, {reason}")

    def _say(self, text: str) -> None:
        now = time.monotonic()
        unfinished = [(job, 0.0) for job in self.waiting if not job.finished()]
        left = remaining_seconds(
            unfinished + [(job, now - started) for job, _, started in self.running],
            [(job, self.report.seconds[job.name]) for job in self.jobs if job.name in self.report.seconds],
            parallel=self.devices.at_a_time(self.parallel),
        )
        left_text = f", about {duration(left)} left" if left else ""
        print(f"[{len(self.report.ended())}/{len(self.jobs)}{left_text}] {text}", flush=True)

    def _stop(self) -> None:
        """Forward the signal to the children, and wait; on a second signal, kill them."""
        number, sent = self.signals[0], 0
        names = ", ".join(job.name for job, *_ in self.running) or "none was running"
        while any(process.poll() is None for _, process, _ in self.running):
            if sent < min(len(self.signals), 2):
                sent += 1
                for _, process, _ in self.running:
                    if process.poll() is None:
                        os.killpg(process.pid, number if sent == 1 else signal.SIGKILL)
            time.sleep(POLL_SECONDS)
        exit_code = STOP_SIGNALS[signal.Signals(number)]
        raise Interrupted(f"jobs stopped: {names}. The same command goes on from there.", exit_code=exit_code)


def _last_line(job: Job) -> str:
    """The last line that the command printed in its last call."""
    printed = job.log.read_text(encoding="utf-8", errors="replace").rpartition(_header(job))[2]
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it printed nothing"


def _header(job: Job) -> str:
    return f"$ {shlex.join(job.command)}\n"
