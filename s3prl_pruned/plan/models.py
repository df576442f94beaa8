"""The models that a plan compares, as named on the command line."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from s3prl_pruned import compat
from s3prl_pruned.models.shape import FAMILIES
from s3prl_pruned.superb.running.options import make_parser
from s3prl_pruned.superb.tasks.upstreams import describe_upstream
from s3prl_pruned.upstream.load import newest_export


@dataclass(frozen=True)
class ComparedModel:
    """An upstream of s3prl's hub, with or without a checkpoint."""

    name: str
    upstream: str
    """The upstream, `-u`."""
    checkpoint: str | None = None
    """`-k`; `{seed}` in it stands for the task's seed, so that each seed uses its own pruning run."""
    hashes: Mapping[int, str] = field(default_factory=dict, compare=False)
    """`--upstream-sha256` by seed, if the model existed when the plan was made."""

    @classmethod
    def parse(cls, text: str) -> "ComparedModel":
        """Parse `NAME[=UPSTREAM[:CKPT]]`; the upstream is the name by default."""
        name, _, rest = text.partition("=")
        upstream, _, checkpoint = (rest or name).partition(":")
        return cls(name, upstream, checkpoint or None)

    def checkpoint_of(self, seed: int) -> str | None:
        """`-k` for one seed."""
        return None if self.checkpoint is None else self.checkpoint.replace("{seed}", str(seed))

    def options(self, seed: int) -> list[str]:
        """The options of `run_downstream.py` that name the upstream."""
        checkpoint = self.checkpoint_of(seed)
        expected = ["--upstream-sha256", self.hashes[seed]] if seed in self.hashes else []
        return ["-u", self.upstream, *(["-k", checkpoint] if checkpoint else []), *expected]

    def settled(
        self, seeds: Sequence[int], *, being_made: Collection[Path] = (), options: Sequence[str] = ()
    ) -> "ComparedModel":
        """The same model with its files fixed: a job of the plan must later find the files that exist now.

        "The newest export" becomes that export's path, and an existing checkpoint gets its hash, which each job
        compares with the file that it reads.

        Args:
            seeds: seeds of the tasks.
            being_made: folders of pruning runs in the same plan; their exports will exist later.
            options: further options of every call, such as `-g`, without which some models cannot be built.

        Raises:
            UserError: if there is no export, or a checkpoint cannot be read.
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
