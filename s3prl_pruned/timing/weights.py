"""The weights of timed models: one dense encoder for each shape, random or trained."""

from typing import Any

from s3prl_pruned.config import UserError
from s3prl_pruned.models import families
from s3prl_pruned.models.dummies import random_encoder
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.timing.names import ModelName, WrongName, nearest

# Our shapes' names in s3prl's hub, and so in `load_teacher`, that have trained weights.
TRAINED = {
    "wavlm_embedded": "embedded",
    "hubert_large": "hubert_large_ll60k",
    "wav2vec2_base": "wav2vec2_base_960",
    "wav2vec2_large": "wav2vec2_large_ll60k",
    "data2vec_base": "data2vec_base_960",
    "data2vec_large": "data2vec_large_ll60k",
}
SHAPES = (
    "wavlm_base",
    "wavlm_large",
    "wavlm_embedded",
    "hubert_base",
    "hubert_large",
    "wav2vec2_base",
    "wav2vec2_large",
    "wav2vec2_large_960",
    "data2vec_base",
    "data2vec_large",
)
PAPERS = {
    "wavlm": "Chen et al. 2022",
    "hubert": "Hsu et al. 2021",
    "wav2vec2": "Baevski et al. 2020",
    "data2vec": "Baevski et al. 2022",
}
"""The papers by family."""


class DenseWeights:
    """The dense encoders that models are made from, each built once.

    Args:
        random: use random weights and download nothing.
        seed: seed of random weights.
    """

    def __init__(self, *, random: bool, seed: int):
        self.random, self.seed = random, seed
        self._made: dict[str, SpeechEncoder] = {}

    def of(self, shape: str, config: EncoderConfig | None = None) -> SpeechEncoder:
        """The dense encoder of a shape; `config` if the shape has no name."""
        if shape not in self._made:
            if self.random:
                self._made[shape] = random_encoder(config or families.named(shape), seed=self.seed)
            else:
                from s3prl_pruned.pretrain.distill.teachers import load_teacher

                self._made[shape] = load_teacher(TRAINED.get(shape, shape)).encoder
        return self._made[shape]

    def of_structure(self, name: ModelName, config: EncoderConfig) -> tuple[str, SpeechEncoder]:
        """A name for the shape, and the dense encoder that a structure is sliced from.

        Raises:
            UserError: if trained weights are needed, which a structure does not have.
        """
        if not self.random:
            raise UserError(f"{name.text!r}: is a structure without weights. Add --random.")
        shape = "wavlm_base" if config == families.named("wavlm_base") else str(config)
        return shape, self.of(shape, config)

    def origin(self, shape: str) -> str:
        """The origin of a shape's weights."""
        return f"random, seed {self.seed}" if self.random else TRAINED.get(shape, shape)

    def known(self, shape: str, weights: str | None = None) -> dict[str, Any]:
        """The fields of `TimedModel` that follow from the name of another library's shape."""
        if shape not in SHAPES:
            return {"config": None, "spec": None, "same_as": None, "weights": weights or shape}
        config = families.named(shape)
        spec = CompactSpec.dense(config)
        return {"config": config, "spec": spec, "same_as": identity(shape, spec), "weights": self.origin(shape)}


def identity(shape: str, spec: CompactSpec) -> str:
    """A string that is equal for all models with this structure and these weights."""
    return f"{shape} {hash(spec)}"


def shape_of(name: ModelName) -> str:
    """The shape of another library's model, from its name.

    Raises:
        WrongName: if there is none.
    """
    if name.source not in SHAPES:
        raise WrongName(
            f"{name.text!r}: random weights exist for {', '.join(SHAPES)} only.{nearest(name.source, SHAPES)} "
            "Without --random trained weights are loaded."
        )
    return name.source
