"""Checkpoint formats, ours and others': one file for each, and `registry` with all of them."""

WRITES: dict[str, str | None] = {
    "folder": "pruned",
    "huggingface": "pruned",
    "huggingface_whisper": None,
    "whisper": None,
    "microsoft": "dense",
    "s3prl": "dense",
    "fairseq": "dense",
    "torchaudio": "dense",
    "dphubert": "pruned",
    "diarizen": "pruned",
    "onnx": "pruned",
    "distilhubert": None,
    "lighthubert": None,
    "maskhubert": None,
    "starhubert": None,
}
"""The formats, in the order in which they are asked, each with the encoders that it writes.

`pruned` ones too, `dense` ones only, or None. A name is also that of the format's file in this folder. It is plain
data, so that commands can list formats in their helps without torch.
"""
