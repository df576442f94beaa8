"""Entry points for `torch.hub`: the pruned encoders as s3prl upstreams, without s3prl's own hub.

    model = torch.hub.load("/path/to/this/clone", "wavlm_pruned", source="local")
    states = model([waveform])["hidden_states"]

Without `ckpt`, `wavlm_pruned` takes the newest export under `result/pretrain/` of the working directory.
"""

from s3prl_pruned.upstream.hubconf import (  # noqa: F401 torch.hub looks for them here
    data2vec_pruned,
    data2vec_pruned_local,
    data2vec_pruned_url,
    hubert_pruned,
    hubert_pruned_local,
    hubert_pruned_url,
    wav2vec2_pruned,
    wav2vec2_pruned_local,
    wav2vec2_pruned_url,
    wavlm_embedded,
    wavlm_pruned,
    wavlm_pruned_local,
    wavlm_pruned_url,
    wavlm_random,
    whisper_pruned,
    whisper_pruned_local,
    whisper_pruned_url,
)

dependencies = ["torch", "numpy", "yaml", "soundfile", "safetensors"]
