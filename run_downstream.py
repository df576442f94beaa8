"""Train and evaluate a SUPERB task on an upstream: python run_downstream.py -u wavlm_pruned -d asr"""

import sys

from s3prl_pruned.superb.run import main

if __name__ == "__main__":
    sys.exit(main())
