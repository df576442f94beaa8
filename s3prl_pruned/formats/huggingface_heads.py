"""The encoder with task heads; layers, names, settings and outputs are those of transformers' wav2vec 2.0 models."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import (
    CausalLMOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
    XVectorOutput,
)

from s3prl_pruned.formats.huggingface_config import PrunedSpeechConfig
from s3prl_pruned.formats.huggingface_model import PrunedSpeechModel, PrunedSpeechPreTrainedModel

Output = CausalLMOutput | SequenceClassifierOutput | TokenClassifierOutput | XVectorOutput


class PrunedSpeechWithHead(PrunedSpeechPreTrainedModel):
    """An encoder with a head on its last state, or on SUPERB's weighted sum of all (`use_weighted_layer_sum`)."""

    def __init__(self, config: PrunedSpeechConfig):
        super().__init__(config)
        self.speech_encoder = PrunedSpeechModel(config)
        self.num_labels: Any = config.num_labels
        self.width: int = config.hidden_size  # width of the head's input
        if config.use_weighted_layer_sum:
            self.width = self.speech_encoder.encoder.config.state_dim
            states = self.speech_encoder.encoder.config.num_states
            self.layer_weights = nn.Parameter(torch.full((states,), 1 / states))
        self.make_head(config)
        self.post_init()
        self.speech_encoder.freeze_idle()

    def make_head(self, config: Any) -> None:
        """Create the layers of the head."""
        raise NotImplementedError

    def classify(self, states: Tensor, attention_mask: Tensor | None, labels: Tensor | None) -> Output:
        """Apply the head.

        Args:
            states: (B, T, D).
            attention_mask: (B, S), or None.
            labels: targets of the loss; None for no loss.
        """
        raise NotImplementedError

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: Tensor | None = None,
    ) -> Output | tuple:
        """Encode, and apply the head.

        Args:
            input_values: as in `PrunedSpeechModel.forward`, also the next four arguments.
            attention_mask: (B, S).
            output_attentions: whether to return `attentions`.
            output_hidden_states: whether to return `hidden_states`.
            return_dict: False returns a tuple.
            labels: if set, the output has a `loss`.
        """
        weighted = self.config.use_weighted_layer_sum
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        encoded: Any = self.speech_encoder(
            input_values,
            attention_mask,
            output_attentions=output_attentions,
            output_hidden_states=wanted or weighted,
            return_dict=True,
        )
        states = encoded.last_hidden_state
        if weighted:
            shares = self.layer_weights.softmax(-1)[:, None, None, None]
            states = (torch.stack(encoded.hidden_states) * shares).sum(0)
        output = self.classify(states, attention_mask, labels)
        output.hidden_states = encoded.hidden_states if wanted else None
        output.attentions = encoded.attentions
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, PrunedSpeechWithHead) and hasattr(module, "layer_weights"):
            nn.init.constant_(module.layer_weights, 1 / len(module.layer_weights))
        elif isinstance(module, AdditiveMarginSoftmax):
            nn.init.normal_(module.weight)


class PrunedSpeechForCTC(PrunedSpeechWithHead):
    """`AutoModelForCTC`: logits (B, T, vocab_size); labels (B, N), padded with -100."""

    def make_head(self, config: Any) -> None:
        """Dropout and a linear map."""
        self.dropout = nn.Dropout(config.final_dropout)
        self.lm_head = nn.Linear(self.width, config.vocab_size)

    def classify(self, states: Tensor, attention_mask: Tensor | None, labels: Tensor | None) -> Output:
        """Connectionist temporal classification (Graves et al. 2006); the blank is `pad_token_id`."""
        logits = self.lm_head(self.dropout(states))
        if labels is None:
            return CausalLMOutput(logits=logits)
        if labels.max() >= self.config.vocab_size:
            raise ValueError(f"labels must be below vocab_size, {self.config.vocab_size}, but one is {labels.max()}.")
        frames: Any = torch.full((len(logits),), logits.shape[1], device=logits.device)
        if attention_mask is not None:
            frames = self._get_feat_extract_output_lengths(attention_mask.long().sum(-1))
        with torch.backends.cudnn.flags(enabled=False):  # cuDNN's CTC requires blank 0 and short targets
            loss = F.ctc_loss(
                logits.float().log_softmax(-1).transpose(0, 1),
                labels.clamp(min=0),
                frames,
                (labels >= 0).sum(-1),
                blank=self.config.pad_token_id,
                reduction=self.config.ctc_loss_reduction,
                zero_infinity=self.config.ctc_zero_infinity,
            )
        return CausalLMOutput(loss=loss, logits=logits)


class PrunedSpeechForSequenceClassification(PrunedSpeechWithHead):
    """`AutoModelForAudioClassification`: logits (B, num_labels) from the mean over frames; labels (B,)."""

    def make_head(self, config: Any) -> None:
        """A projection and a linear map."""
        self.projector = nn.Linear(self.width, config.classifier_proj_size)
        self.classifier = nn.Linear(config.classifier_proj_size, config.num_labels)

    def classify(self, states: Tensor, attention_mask: Tensor | None, labels: Tensor | None) -> Output:
        """Mean over frames that are not padding, linear map, cross entropy."""
        x = self.projector(states)
        if attention_mask is None:
            mean = x.mean(1)
        else:
            heard = self._get_feature_vector_attention_mask(x.shape[1], attention_mask)[..., None]
            mean = x.masked_fill(~heard, 0.0).sum(1) / heard.sum(1)
        logits = self.classifier(mean)
        loss = None if labels is None else F.cross_entropy(logits.view(-1, self.num_labels), labels.view(-1))
        return SequenceClassifierOutput(loss=loss, logits=logits)


class PrunedSpeechForAudioFrameClassification(PrunedSpeechWithHead):
    """`AutoModelForAudioFrameClassification`: logits (B, T, num_labels); labels of the same shape, one-hot."""

    def make_head(self, config: Any) -> None:
        """A linear map."""
        self.classifier = nn.Linear(self.width, config.num_labels)

    def classify(self, states: Tensor, attention_mask: Tensor | None, labels: Tensor | None) -> Output:
        """Cross entropy per frame."""
        logits, loss = self.classifier(states), None
        if labels is not None:
            classes = labels.view(-1, self.num_labels).argmax(-1)
            loss = F.cross_entropy(logits.view(-1, self.num_labels), classes)
        return TokenClassifierOutput(loss=loss, logits=logits)


class PrunedSpeechForXVector(PrunedSpeechWithHead):
    """`AutoModelForAudioXVector`: embeddings and logits (B, xvector_output_dim) of speakers; labels (B,)."""

    def make_head(self, config: Any) -> None:
        """X-vectors (Snyder et al. 2018): layers over frames, their mean and standard deviation, two linear maps."""
        self.projector = nn.Linear(self.width, config.tdnn_dim[0])
        before = (config.tdnn_dim[0], *config.tdnn_dim[:-1])
        self.tdnn = nn.ModuleList(
            map(TimeDelayLayer, before, config.tdnn_dim, config.tdnn_kernel, config.tdnn_dilation)
        )
        self.feature_extractor = nn.Linear(2 * config.tdnn_dim[-1], config.xvector_output_dim)
        self.classifier = nn.Linear(config.xvector_output_dim, config.xvector_output_dim)
        self.objective = AdditiveMarginSoftmax(config.xvector_output_dim, config.num_labels)

    def classify(self, states: Tensor, attention_mask: Tensor | None, labels: Tensor | None) -> Output:
        """Statistics over frames that are not padding; the loss is the additive-margin softmax."""
        x = self.projector(states)
        for layer in self.tdnn:
            x = layer(x)
        if attention_mask is None:
            statistics = torch.cat([x.mean(1), x.std(1)], -1)
        else:
            lengths: Any = self._get_feat_extract_output_lengths(attention_mask.long().sum(-1))
            lengths = lengths - sum(kernel - 1 for kernel in self.config.tdnn_kernel)
            heard = [row[:length] for row, length in zip(x, lengths.tolist(), strict=True)]
            statistics = torch.stack([torch.cat([frames.mean(0), frames.std(0)]) for frames in heard])
        embeddings = self.feature_extractor(statistics)
        logits = self.classifier(embeddings)
        loss = None if labels is None else self.objective(logits, labels)
        return XVectorOutput(loss=loss, logits=logits, embeddings=embeddings)


class TimeDelayLayer(nn.Module):
    """A dilated convolution over frames and ReLU, (B, T, C) -> (B, fewer frames, C_out); stored as a linear map."""

    def __init__(self, before: int, channels: int, kernel: int, dilation: int):
        super().__init__()
        self.dilation = dilation
        self.kernel = nn.Linear(kernel * before, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T - dilation (kernel - 1), C_out)."""
        weight = self.kernel.weight.unflatten(1, (-1, x.shape[-1])).transpose(1, 2)  # (C_out, C, kernel)
        y = F.conv1d(x.transpose(1, 2), weight, self.kernel.bias, dilation=self.dilation)
        return F.relu(y.transpose(1, 2))


class AdditiveMarginSoftmax(nn.Module):
    """Cross entropy of cosines to the classes, with a margin on the right class (Wang et al. 2018, AM-Softmax)."""

    def __init__(self, dim: int, num_labels: int, *, scale: float = 30.0, margin: float = 0.4):
        super().__init__()
        self.scale, self.margin = scale, margin
        self.weight = nn.Parameter(torch.randn(dim, num_labels))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Vectors (B, dim) and classes (B,) -> loss ()."""
        labels = labels.flatten()
        cosines = F.normalize(x, dim=1) @ F.normalize(self.weight, dim=0)  # (B, num_labels)
        margins = self.margin * F.one_hot(labels, cosines.shape[1])
        return F.cross_entropy(self.scale * (cosines - margins), labels)
