"""The variants of a model's name: compilation, autocast, another path, masks instead of slicing."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from s3prl_pruned.models.accelerate.graphs import graphed
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.masks import Slot
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.timing.adapters import Call, Encode


def compiled(call: Call, module: nn.Module, device: str) -> Call:
    """Compile a library's call: ours on CUDA as graphs by length, all others by `torch.compile`.

    Args:
        call: the module, or one of its methods.
        module: the module with its weights.
        device: torch device.
    """
    cuda = torch.device(device).type == "cuda"
    if cuda and isinstance(module, SpeechEncoder):
        return graphed(module)
    # On CUDA inductor also records graphs: kernel launches dominate short inputs.
    return torch.compile(call, mode="reduce-overhead" if cuda else "default")


def under_autocast(encode: Encode, device: str, dtype: torch.dtype) -> Encode:
    """`encode` under `torch.autocast`."""

    def encode_under(wavs: list[Tensor]) -> list[Tensor]:
        with torch.autocast(torch.device(device).type, dtype):
            return encode(wavs)

    return encode_under


def under_path(encode: Encode, path: str) -> Encode:
    """`encode` on another path than the default.

    `reference`: the plain implementation, as in training. `lowmem`: the fast path in its smallest pieces.
    """
    from s3prl_pruned.models.accelerate import paths

    if path == "reference":
        table = {}
    else:
        table = {
            device: tuple(replace(row, cnn_frames=16, queries=32) for row in rows)
            for device, rows in paths.PATHS.items()
        }

    def encode_under(wavs: list[Tensor]) -> list[Tensor]:
        kept = paths.PATHS
        paths.PATHS = table
        try:
            return encode(wavs)
        finally:
            paths.PATHS = kept

    return encode_under


def move_masks(encoder: SpeechEncoder, device: str, dtype: torch.dtype) -> None:
    """Move an encoder's masks, which are no buffers and so are not moved with it."""
    for part in encoder.modules():
        for name, value in vars(part).items():
            if name.startswith("z_") and value is not None:
                setattr(part, name, value.detach().to(device, dtype))


def masks_of(spec: CompactSpec, config: EncoderConfig) -> dict[Slot, Tensor]:
    """Masks of ones and zeros with which a dense encoder computes the structure `spec` (`SpeechEncoder.set_masks`)."""
    masks: dict[Slot, Tensor] = {}
    for i, layer in enumerate(spec.layers):
        qk, vo = torch.zeros(2, config.num_heads, config.head_dim)
        ffn = torch.zeros(config.ffn_dim)
        for head in layer.heads:
            qk[head.index, list(head.qk)] = 1
            vo[head.index, list(head.vo)] = 1
        ffn[list(layer.ffn)] = 1
        mha, whole_ffn = (torch.tensor([float(flag)]) for flag in (layer.attention, layer.feed_forward))
        of_layer = {"z_mha": mha, "z_qk": qk.flatten(), "z_vo": vo.flatten(), "z_ffn": whole_ffn, "z_int": ffn}
        masks |= {(i, name): z for name, z in of_layer.items()}
    for i, kept in enumerate(spec.channels or ()):
        masks[i, "z_conv"] = torch.zeros(config.conv_layers[i][0])
        masks[i, "z_conv"][list(kept)] = 1
    if spec.position_groups is not None:
        masks[0, "z_pos"] = torch.zeros(config.pos_conv_groups)
        masks[0, "z_pos"][list(spec.position_groups)] = 1
    return masks
