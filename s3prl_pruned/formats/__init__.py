"""Checkpoint formats, ours and those of others: one file each; `registry` lists them all."""

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
"""The formats in the order in which they are tried, with the kind of encoders that each can write.

`pruned` means dense and pruned encoders, `dense` dense ones only, None none. A name is also that of the format's file
in this folder. This is plain data, so that commands can list formats in their help without importing torch.
"""
