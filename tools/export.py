"""Export a model, such as the pruned encoder of a training checkpoint: as a folder, for transformers, or as ONNX.

python tools/export.py result/pretrain/wavlm_pruned_distill/embedded/states-300.ckpt my_export
python tools/export.py result/pretrain/wavlm_pruned_distill/embedded/export my_model --to huggingface
python tools/export.py result/pretrain/wavlm_pruned_distill/embedded/export my_model.onnx --to onnx
python tools/export.py result/pretrain/wavlm_pruned_distill/embedded/export my_int8 --int8

A size can be chosen after training: look at several, then export one.

python tools/export.py result/pretrain/wavlm_pruned_distill/embedded/states-500.ckpt sizes --targets 0.8,0.85,0.9,0.95
python tools/export.py result/pretrain/wavlm_pruned_distill/embedded/states-500.ckpt my_smaller_model --at 0.9
"""

from s3prl_pruned.command_line import command_line
from s3prl_pruned.commands.export import main

if __name__ == "__main__":
    command_line(main)
