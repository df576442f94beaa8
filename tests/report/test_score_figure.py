"""Figure 2: what is drawn, where, and what is left out."""

from itertools import pairwise

import pytest

from s3prl_pruned.config import UserError
from s3prl_pruned.report.score_figure import Point, draw, label_places, left_out, points_of, write_figure
from s3prl_pruned.superb.score.scored_models import given_models, published_models


def test_published_models_are_drawn_at_their_size_and_score():
    points = {point.name: point for point in points_of(published_models(), "paper")}
    assert len(points) == 10 and "wav2vec" not in points  # whose size is not known
    proposed = points["Wang 2023, proposed"]
    assert proposed.params_millions == 26.57 and proposed.score == pytest.approx(769.62, abs=0.01)
    figure = draw({"paper": list(points.values())})
    (axes,) = figure.axes
    (line,) = axes.get_lines()
    assert sorted(zip(*line.get_data())) == sorted((p.params_millions, p.score) for p in points.values())
    assert axes.get_title() == "paper scale" and {text.get_text() for text in axes.texts} == set(points)


def test_names_do_not_cover_each_other():
    points = [Point(name=str(i), kind="published", params_millions=24 + i / 10, score=700 + i) for i in range(8)]
    points.append(Point(name="far", kind="published", params_millions=95, score=703))
    places = {point.name: place for point, place in label_places(points, gap=10, reach=30, aside=2)}
    assert places.pop("far") == (97, 703)  # in a column of its own
    heights = sorted(height for _, height in places.values())
    assert min(b - a for a, b in pairwise(heights)) >= 10 - 1e-9
    assert sum(heights) / 8 == pytest.approx(703.5) and {x for x, _ in places.values()} == {26.7}


def test_a_model_of_other_settings_is_marked():
    points = [Point(name="a", kind="measured", params_millions=20, score=500, exact=False)]
    texts = [text.get_text() for text in draw({"leaderboard": points}).axes[0].texts]
    assert texts == ["a *", "* not the official settings"]


def test_what_cannot_be_drawn_is_said(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("- {model: mine, asr: {wer: {value: 10, unit: percent}}}")
    rows = given_models(path)
    assert left_out(rows) == ["mine: no number of parameters, no score, missing pr ks qbe sid sv sd ic sf er"]
    with pytest.raises(UserError, match="no row has both a score and a number of parameters .mine: no number"):
        write_figure(tmp_path / "out.png", rows)
    with pytest.raises(UserError, match="a picture must be one of .* but is 'xyz'"):
        write_figure(tmp_path / "out.xyz", published_models())
    with pytest.raises(UserError, match="cannot be written"):
        write_figure(tmp_path / "none" / "out.png", published_models())
    write_figure(tmp_path / "out.png", published_models())
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG") and len(list(tmp_path.iterdir())) == 2
