"""The CTC head of a recogniser: its files beside an exported encoder, and conversion to transformers."""

import json
from collections.abc import Mapping

import safetensors
import safetensors.torch
from torch import Tensor

from s3prl_pruned.config import UserError

NAME = "ctc_head"
HEAD, ALPHABET = f"{NAME}.safetensors", f"{NAME}.json"
"""Weights of a linear map, `projection.`, and the characters of its outputs from 1 on; output 0 is the blank."""
BLANK_TOKEN = "<pad>"
SPACE = "|"
"""Separator of words in transformers' tokenizer."""


def head_state(files: Mapping[str, bytes]) -> dict[str, Tensor]:
    """Weights of the head under transformers' names, (outputs, D) and (outputs,); empty without a head.

    Args:
        files: further files of the encoder's folder, content by name.

    Raises:
        UserError: the head is damaged, or does not fit its alphabet.
    """
    if HEAD not in files:
        return {}
    outputs = len(_characters(files)) + 1
    try:
        state = safetensors.torch.load(files[HEAD])
        weight, bias = state["projection.weight"], state["projection.bias"]
    except (safetensors.SafetensorError, KeyError) as error:
        raise UserError(f"{HEAD}: is damaged ({error}). Copy the export again.") from error
    if len(weight) != outputs or len(bias) != outputs:
        raise UserError(f"{HEAD}: must have {outputs} outputs for {ALPHABET}, but has {len(weight)}. Copy both again.")
    return {"lm_head.weight": weight, "lm_head.bias": bias}


def tokenizer_files(files: Mapping[str, bytes]) -> dict[str, str]:
    """Files of a `Wav2Vec2CTCTokenizer` for the alphabet of a head; empty without a head.

    Args:
        files: further files of the encoder's folder, content by name.

    Raises:
        UserError: the alphabet is damaged, or contains the character that transformers uses as space.
    """
    if HEAD not in files:
        return {}
    characters = _characters(files)
    if SPACE in characters:
        raise UserError(f"{ALPHABET}: holds {SPACE!r}, which transformers reads as a space. Export to another format.")
    tokens = [BLANK_TOKEN, *characters.replace(" ", SPACE)]
    config = {
        "tokenizer_class": "Wav2Vec2CTCTokenizer",
        "processor_class": "Wav2Vec2Processor",
        "pad_token": BLANK_TOKEN,
        "unk_token": BLANK_TOKEN,
        "bos_token": None,
        "eos_token": None,
        "word_delimiter_token": SPACE,
        "clean_up_tokenization_spaces": False,
    }
    data = {"vocab.json": {token: i for i, token in enumerate(tokens)}, "tokenizer_config.json": config}
    return {name: json.dumps(each, ensure_ascii=False) + "\n" for name, each in data.items()}


def _characters(files: Mapping[str, bytes]) -> str:
    try:
        characters = json.loads(files[ALPHABET])["characters"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{ALPHABET}: is missing or damaged ({error!r}). Copy the export again.") from error
    if not isinstance(characters, str):
        raise UserError(
            f"{ALPHABET}: `characters` must be a text, but is {str(characters)[:60]}. Copy the export again."
        )
    return characters
