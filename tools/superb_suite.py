"""Run SUPERB tasks for one or more upstreams, resume after failures and restarts, and print the scores.

python tools/superb_suite.py -u wavlm_pruned --tasks all --paths my_corpora.yaml
python tools/superb_suite.py -u fbank pruned=wavlm_pruned_local:my_export --tasks asr,ks --lr-search
python tools/superb_suite.py -u wavlm_pruned --tasks all --scheduler slurm --jobs-dir my_jobs
"""

from s3prl_pruned.command_line import command_line
from s3prl_pruned.commands.suite import main

if __name__ == "__main__":
    command_line(main)
