"""The models that a plan compares, as a command line names them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from s3prl_pruned import compat
from s3prl_pruned.models.spec import FAMILIES
from s3prl_pruned.superb.running.options import make_parser
from s3prl_pruned.superb.tasks.upstreams import describe_upstream
from s3prl_pruned.upstream.load import newest_export


@dataclass(frozen=True)
class ComparedModel:
    """An upstream of s3prl's hub, with or without a checkpoint."""

    name: str
    upstream: str
    """`-u`."""
    checkpoint: str | None = None
    """`-k`; `{seed}` in it stands for the seed of the task, so that each goes with its own pruning run."""
    hashes: Mapping[int, str] = field(default_factory=dict, compare=False)
    """`--upstream-sha256` by seed, where the model was there when the plan was made."""

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
        expected = ["--upstream-sha256", self.hashes[seed]] if seed in self.hashes else []
        return ["-u", self.upstream, *(["-k", checkpoint] if checkpoint else []), *expected]

    def settled(
        self, seeds: Sequence[int], *, being_made: Collection[Path] = (), options: Sequence[str] = ()
    ) -> "ComparedModel":
        """The same model with its files named: what a job of the plan finds later must be what is there now.

        "The newest export" becomes that export, and a checkpoint that is there gets its hash, with which each job
        compares what it reads.

        Args:
            seeds: of the tasks.
            being_made: folders of pruning runs in the same plan; their exports come later.
            options: further ones of every call, such as `-g`, without which some models cannot be built.

        Raises:
            UserError: there is no export, or a checkpoint cannot be read.
        """
        model = self
        if self.checkpoint is None and self.upstream in {f"{family}_pruned" for family in FAMILIES}:
            model = replace(self, checkpoint=str(newest_export(self.upstream)))
        hashes: dict[str, str | None] = {}
        known = {}
        for seed in seeds:
            path = model.checkpoint_of(seed)
            if path is None or not Path(path).exists() or Path(path).parent in being_made:
                continue
            if path not in hashes:
                compat.apply()
                args = make_parser().parse_args([*model.options(seed), *options])
                hashes[path] = describe_upstream(args).sha256
            if found := hashes[path]:
                known[seed] = found
        return replace(model, hashes=known)
