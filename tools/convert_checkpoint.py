"""Convert a checkpoint from one public format to another, or to this project's folder.

python tools/convert_checkpoint.py hubert_base_ls960.pt hubert_base --to huggingface
python tools/convert_checkpoint.py facebook--wav2vec2-base wav2vec_small.pt --to s3prl
python tools/convert_checkpoint.py torchaudio.pt hubert.pt --to fairseq --shape hubert_base
"""

from s3prl_pruned.command_line import command_line
from s3prl_pruned.commands.convert import main

if __name__ == "__main__":
    command_line(main)
