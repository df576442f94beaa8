"""Print the metrics and the SUPERB score of run_downstream.py's results, of s3prl's own runs, and of your own numbers.

python tools/superb_score.py results/
python tools/superb_score.py results/ --published --format markdown
python tools/superb_score.py results/ mine.yaml --published --figure score.png
python tools/superb_score.py downstream_runs/mini_superb.json --format markdown   # a table saved as JSON
python tools/superb_score.py s3prl/result/downstream --quesst14 /data/quesst14Database --rttm data/test/rttm
python tools/superb_score.py --table1
"""

from s3prl_pruned.command_line import command_line
from s3prl_pruned.commands.score import main

if __name__ == "__main__":
    command_line(main)
