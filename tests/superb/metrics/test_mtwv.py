"""MTWV, compared with cases worked by hand and a literal implementation of the definition."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.metrics.mtwv import BETA, best_layer, max_term_weighted_value, score_stdlist


def matrix(rows):
    return np.array(rows, dtype=float), np.zeros((len(rows), len(rows[0])), dtype=bool)


def twv(scores, occurs, threshold):
    """The definition, query by query."""
    costs = []
    for row, wanted in zip(scores, occurs):
        if wanted.any():
            detected = row > threshold
            costs.append(
                (wanted & ~detected).sum() / wanted.sum() + BETA * (detected & ~wanted).sum() / (~wanted).sum()
            )
    return 1 - sum(costs) / len(costs)


def test_the_costs_are_those_of_quesst_2014():
    assert pytest.approx(12.49) == BETA  # 1 / 100 * 0.9992 / 0.0008


def test_a_case_worked_by_hand():
    # Query a: found at 3, but one of 40 others scores 2. Query b: one of its two occurrences is below everything.
    scores, occurs = matrix([[3, 2] + [0] * 39, [3, -1] + [0] * 39])
    occurs[0, 0] = occurs[1, :2] = True
    best = max_term_weighted_value(scores, occurs)
    # At t = 2: a misses nothing, b misses one of two, no false alarm: 1 - (0 + 1/2) / 2.
    assert best.mtwv == pytest.approx(0.75) and best.threshold == 2
    assert best.p_miss == pytest.approx(0.25) and best.p_fa == pytest.approx(0)
    # With a's occurrence at 1, t = 0 costs one false alarm in 40: 1 - (0 + 1/2 + BETA / 40) / 2 = 0.594.
    scores[0, 0] = 1
    best = max_term_weighted_value(scores, occurs)
    assert best.mtwv == pytest.approx(1 - (0.5 + BETA / 40) / 2) and best.threshold == 0


def test_mtwv_is_the_greatest_value_of_the_definition_over_all_thresholds():
    rng = np.random.default_rng(0)
    for _ in range(20):
        occurs = rng.random((6, 30)) < 0.1
        occurs[0] = False  # left out of the mean
        occurs[1, 0] = True
        scores = np.round(rng.normal(size=occurs.shape) + 2 * occurs, 1)  # with equal scores
        values = {t: twv(scores, occurs, t) for t in [-np.inf, *np.unique(scores)]}
        best = max_term_weighted_value(scores, occurs)
        assert best.mtwv == pytest.approx(max(values.values()), abs=1e-12)
        assert values[best.threshold] == pytest.approx(best.mtwv, abs=1e-12)
        assert best.num_queries == occurs.any(axis=1).sum()
        # The comparison can fail: with the opposite scores nothing is worth detecting.
        assert max_term_weighted_value(-scores, occurs).mtwv != pytest.approx(best.mtwv, abs=1e-6)


def test_detecting_nothing_is_worth_0():
    scores, occurs = matrix([[0, 1, 2, 3]])
    occurs[0, 0] = True
    best = max_term_weighted_value(scores, occurs)
    assert best.mtwv == 0 and best.p_miss == 1 and best.p_fa == 0


def write_truth(folder, occurrences, queries=("q1", "q2", "q3"), utterances=("u1", "u2", "u3", "u4")):
    """A ground truth folder of the scoring kit: names and attributes as in its 2015 edition."""
    folder.mkdir(parents=True)
    terms = "".join(f'<term termid="{q}"><termtext>{q}</termtext></term>\n' for q in queries)
    (folder / "x.tlist.xml").write_text(
        f'<termlist ecf_filename="x.ecf.xml" language="multiple">\n{terms}</termlist>\n'
    )
    excerpts = "".join(
        f'<excerpt audio_filename="Audio/{u}.wav" channel="1" tbeg="0.000" dur="5"/>\n' for u in utterances
    )
    (folder / "x.ecf.xml").write_text(f'<ecf source_signal_duration="20">\n{excerpts}</ecf>\n')
    lines = []
    for utterance in utterances:
        lines.append(f"SPEAKER {utterance} 1 0.000 5.000 <NA> <NA> SELF <NA>")
        found = [query for query, where in occurrences if where == utterance] or ["NO_KEYWORD"]
        lines += [f"LEXEME {utterance} 1 0.000 5.000 {query} lex SELF <NA>" for query in found]
    (folder / "x.rttm").write_text("\n".join(lines) + "\n")
    return folder


def write_stdlist(path, trials):
    """Write a list as s3prl's quesst14_dtw does (through lxml, with pretty_print)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        "<?xml version='1.0' encoding='UTF-8'?>",
        '<stdlist termlist_filename="benchmark.stdlist.xml" indexing_time="1.00" language="english" index_size="1" '
        'system_id="benchmark">',
    ]
    for query, scores in trials.items():
        lines.append(f'  <detected_termlist termid="{query}" term_search_time="1.0" oov_term_count="1">')
        for utterance, score in scores.items():
            text = score if isinstance(score, str) else f"{score:.4f}"
            lines.append(
                f'    <term file="{utterance}" channel="1" tbeg="0.000" dur="0.00" score="{text}" decision="NO"/>'
            )
        lines.append("  </detected_termlist>")
    path.write_text("\n".join([*lines, "</stdlist>"]) + "\n")
    return path


def test_queries_that_were_not_searched_count_as_missed_and_those_that_never_occur_do_not_count(tmp_path):
    truth = write_truth(tmp_path / "truth", [("q1", "u1"), ("q2", "u2")])
    stdlist = write_stdlist(tmp_path / "benchmark.stdlist.xml", {"q1": {"u1": 2.5, "u2": -1.0}, "q3": {"u1": 9.0}})
    best = score_stdlist(stdlist, truth)
    # q1 is found without a false alarm, q2 (another language to s3prl) has the default score, q3 occurs nowhere.
    assert best.mtwv == pytest.approx(0.5) and best.threshold == -1
    assert (best.num_queries, best.num_utterances, best.num_scored) == (2, 4, 2)


@pytest.mark.parametrize(
    ("trials", "message"),
    [
        ({"q9": {"u1": 1.0}}, "it lacks query q9 .* dev runs with the dev folder"),
        ({"q1": {"u9": 1.0}}, "utterance u9"),
        ({"q1": {"u1": "nan"}}, "every score must be a finite number, but q1 has 'nan'"),
        ({"q1": {"u1": "high"}}, "but q1 has 'high'"),
        ({}, "holds no trials"),
    ],
)
def test_a_list_that_cannot_be_scored_is_one_clear_error(tmp_path, trials, message):
    truth = write_truth(tmp_path / "truth", [("q1", "u1")])
    with pytest.raises(UserError, match=message):
        score_stdlist(write_stdlist(tmp_path / "benchmark.stdlist.xml", trials), truth)


def test_damaged_files_are_refused_by_name(tmp_path):
    truth = write_truth(tmp_path / "truth", [("q1", "u1")])
    stdlist = write_stdlist(tmp_path / "benchmark.stdlist.xml", {"q1": {"u1": 1.0}})
    text = stdlist.read_text()
    stdlist.write_text(text.replace("  </detected", '<term file="u1" score="2"/></detected'))
    with pytest.raises(UserError, match="query q1 and utterance u1 is given twice"):
        score_stdlist(stdlist, truth)
    stdlist.write_text(text[:-30])
    with pytest.raises(UserError, match="benchmark.stdlist.xml: is not complete XML"):
        score_stdlist(stdlist, truth)
    (truth / "x.rttm").write_text("LEXEME u1 1 0.0\n")
    with pytest.raises(UserError, match="x.rttm: every line must have 9 fields"):
        score_stdlist(stdlist, truth)
    (truth / "x.rttm").unlink()
    with pytest.raises(UserError, match=r"must hold one \*.rttm, but holds 0"):
        score_stdlist(stdlist, truth)


@pytest.mark.skipif(
    "QUESST14_SCORING" not in os.environ, reason="QUESST14_SCORING must name the kit's folder, with its *.jar"
)
def test_mtwv_equals_the_official_scorers(tmp_path):
    (jar,) = Path(os.environ["QUESST14_SCORING"]).glob("MediaEvalQUESST*.jar")
    rng = np.random.default_rng(0)
    queries, utterances = ([f"{letter}{i}" for i in range(count)] for letter, count in (("q", 20), ("u", 300)))
    occurrences = [(q, u) for q in queries[1:] for u in utterances if rng.random() < 0.02]
    truth = write_truth(tmp_path / "truth", occurrences, queries, utterances)
    trials = {
        q: {u: round(rng.normal(), 2) + 4 * ((q, u) in occurrences) for u in utterances[::2]} for q in queries[:10]
    }  # s3prl searches a part of queries and utterances
    stdlist = write_stdlist(tmp_path / "benchmark.stdlist.xml", trials)
    files = [stdlist, *(next(truth.glob(pattern)) for pattern in ("*.rttm", "*.ecf.xml", "*.tlist.xml"))]
    command = [shutil.which("java"), "-jar", jar.resolve(), *files, "0.0741289", "-10"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    official, threshold = map(float, re.search(r"maxTWV: (\S+)\s+Threshold: (\S+)", said).groups())
    best = score_stdlist(stdlist, truth)
    assert 0 < official < 0.5 and (best.mtwv, best.threshold) == pytest.approx((official, threshold), abs=1e-5)


def test_the_layer_is_the_best_on_dev():
    assert best_layer({0: 0.1, 12: 0.3, 7: 0.3, 3: 0.2}) == 7
