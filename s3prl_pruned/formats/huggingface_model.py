"""The encoder as a model of transformers. This file and the modules it imports travel in the exported folder as one."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from s3prl_pruned.config import from_dict
from s3prl_pruned.models.accelerate import accelerate
from s3prl_pruned.models.attention import Indices
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.spec import CompactSpec, EncoderConfig


class PrunedSpeechConfig(PretrainedConfig):
    """transformers' view of `config.json`: `encoder` is the dense shape, `spec` what is left of it."""

    model_type = "s3prl_pruned"

    def __init__(self, encoder: dict | None = None, spec: dict | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.encoder = encoder or {}
        self.spec = spec or {}


class PrunedSpeechModel(PreTrainedModel):
    """Waveforms in, L + 1 hidden states out; `AutoModel.from_pretrained(folder, trust_remote_code=True)` makes it.

    Waveforms come as recorded (16 kHz): where the encoder wants them normalised, this model does it, exactly as in
    training, which transformers' own feature extractor (another epsilon) would not.
    """

    config_class = PrunedSpeechConfig
    base_model_prefix = "encoder"  # the weights file holds the encoder's own names
    main_input_name = "input_values"

    def __init__(self, config: PrunedSpeechConfig):
        super().__init__(config)
        shape = from_dict(EncoderConfig, config.encoder, "config.json: encoder")
        self.encoder = accelerate(SpeechEncoder(shape, from_dict(CompactSpec, config.spec, "config.json: spec")))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Indices):
            module.reset()

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput | tuple:
        """Encode.

        Args:
            input_values: (B, S) float, 16 kHz, zero-padded at the end.
            attention_mask: (B, S), 1 where there is speech and 0 where padding follows it; None when none is padded.
            output_hidden_states: whether `hidden_states` is given.
            return_dict: False gives a tuple.

        Returns:
            `last_hidden_state` (B, T, D); `hidden_states`, L + 1 of these: 0 is the first layer's input.
        """
        lengths = None if attention_mask is None else attention_mask.to(torch.long).sum(-1)
        states = self.encoder.encode_raw(input_values, lengths).hidden_states
        output = BaseModelOutput(
            last_hidden_state=states[-1], hidden_states=tuple(states) if output_hidden_states else None
        )
        return output.to_tuple() if return_dict is False else output
