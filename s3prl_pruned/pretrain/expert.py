"""What the experts of all objectives share: s3prl's interface to batches, activations, and the record of a teacher."""

from collections.abc import Iterable
from functools import partial
from typing import TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from s3prl_pruned.config import from_dict, load_yaml
from s3prl_pruned.pretrain.distill.teachers import Teacher

T = TypeVar("T")


class Expert(nn.Module):
    """Base of every `UpstreamPretrainExpert`, which sets `batches`, `datarc`, `model.student` and `loaded_teacher`."""

    loaded_teacher: Teacher

    def get_train_dataloader(self, numbers: Iterable[int] | None = None) -> Iterable:
        """The micro-batches of the whole run with these numbers, in this order (without numbers: one epoch)."""
        return torch.utils.data.DataLoader(
            self.batches,
            batch_size=None,
            sampler=range(len(self.batches)) if numbers is None else numbers,
            num_workers=self.datarc.num_workers,
            generator=torch.Generator(),  # it would draw from the global one, whose state a resumed run has restored
        )

    def checkpoint_activations(self) -> None:
        """Keep only the layers' inputs for the backward pass, and compute the layers again there."""
        for layer in self.model.student.layers:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)

    def teacher_record(self) -> dict[str, str | None]:
        """What a checkpoint says of the teacher."""
        teacher = self.loaded_teacher
        return {"name": teacher.name, "sha256": teacher.sha256, "note": teacher.note}


def model_config(source, kind: type[T]) -> T:
    """A `kind`, from itself, its dict, or the path of a `config_model.yaml`."""
    if isinstance(source, kind):
        return source
    if isinstance(source, dict):
        return from_dict(kind, source, "upstream_config")
    return from_dict(kind, load_yaml(source), str(source))
