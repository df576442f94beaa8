"""The models that a plan compares, as a command line names them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ComparedModel:
    """An upstream of s3prl's hub, with or without a checkpoint."""

    name: str
    upstream: str
    """`-u`."""
    checkpoint: str | None = None
    """`-k`; `{seed}` in it stands for the seed of the task, so that each goes with its own pruning run."""

    @classmethod
    def parse(cls, text: str) -> "ComparedModel":
        """`NAME[=UPSTREAM[:CKPT]]`; the upstream is called as the name says where it is not given."""
        name, _, rest = text.partition("=")
        upstream, _, checkpoint = (rest or name).partition(":")
        return cls(name, upstream, checkpoint or None)

    def checkpoint_of(self, seed: int) -> str | None:
        """`-k` for one seed."""
        return None if self.checkpoint is None else self.checkpoint.replace("{seed}", str(seed))

    def options(self, seed: int) -> list[str]:
        """What names the upstream on `run_downstream.py`'s command line."""
        checkpoint = self.checkpoint_of(seed)
        return ["-u", self.upstream, *(["-k", checkpoint] if checkpoint else [])]
