"""TensorBoard's numbers, also on a disk that is full."""

import subprocess
import sys
import textwrap

from tensorboardX.proto.event_pb2 import Event, SessionLog

from s3prl_pruned.scalars import ScalarWriter


def events(folder):
    """What the folder's one event file holds: records of length, checksum, data, checksum (TFRecord)."""
    (path,) = folder.glob("events.out.tfevents.*")
    data, found = path.read_bytes(), []
    while data:
        size = int.from_bytes(data[:8], "little")
        found.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    return found


def test_what_tensorboard_reads(tmp_path):
    writer = ScalarWriter(tmp_path / "tensorboard", purge_step=3)
    writer.add_scalar("loss", 0.5, 3)
    writer.add_scalar("lr", 0.25, global_step=4)
    writer.close()
    head, purge, *rest = events(tmp_path / "tensorboard")
    assert head.file_version == "brain.Event:2"
    assert (purge.step, purge.session_log.status) == (3, SessionLog.START)
    assert [(e.step, e.summary.value[0].tag, e.summary.value[0].simple_value) for e in rest] == [
        (3, "loss", 0.5),
        (4, "lr", 0.25),
    ]


def test_on_a_full_disk_it_neither_stops_nor_waits(tmp_path):
    """tensorboardX's own writer waits for ever here."""
    script = f"""
        import logging, resource
        from s3prl_pruned import scalars
        logging.basicConfig()
        scalars.FLUSH_SECONDS = -1
        writer = scalars.ScalarWriter({str(tmp_path)!r})
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))
        for step in range(100):
            writer.add_scalar("loss", 0.5, step)
        writer.close()
        print("the end")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "the end\n", done.stderr
    assert done.stderr.count("TensorBoard's file cannot be written") == 1 and "Traceback" not in done.stderr
