"""Entry points for `torch.hub`: the pruned encoders as s3prl upstreams, without s3prl's own hub.

    model = torch.hub.load("/path/to/this/clone", "wavlm_pruned", source="local")
    states = model([waveform])["hidden_states"]

Without `ckpt`, `wavlm_pruned` takes the newest export under `result/pretrain/` of the working directory.
"""

from s3prl_pruned.upstream.wavlm_pruned.hubconf import (  # noqa: F401
    wavlm_embedded,
    wavlm_pruned,
    wavlm_pruned_local,
    wavlm_pruned_url,
)

dependencies = ["torch", "numpy", "yaml", "soundfile", "safetensors"]
