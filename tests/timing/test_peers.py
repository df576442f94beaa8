"""Published structures among the timed models: what is built from a name, and what is left out."""

import pytest
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.formats.folder import TOLERANCE
from s3prl_pruned.models.peers import PEERS
from s3prl_pruned.timing import peers
from s3prl_pruned.timing.checks import check_equal, check_macs
from s3prl_pruned.timing.models import Builder
from s3prl_pruned.timing.names import GRAMMAR, parse


@pytest.fixture(scope="module")
def built():
    """The fast form of a published structure, and the plain form with the same weights."""
    builder = Builder(random=True)
    return [builder.build(parse(text)) for text in ("peer:maskhubert", "peer:maskhubert+reference")]


def test_a_peer_runs_in_our_encoder_and_its_fast_form_computes_what_the_plain_one_does(built):
    wav = torch.randn(8_000, generator=torch.Generator().manual_seed(0))
    (found,), lost = check_equal(built, wav)
    assert not lost and found["difference"] <= TOLERANCE
    assert check_macs(built) == ["peer:maskhubert", "peer:maskhubert+reference"]
    norm = built[0].module.layers[3].final_layer_norm
    norm.weight.data = norm.weight * 1.01  # and a difference would be detected
    (unequal,) = check_equal(built, wav)[1]
    assert unequal.name == "peer:maskhubert+reference"


def test_a_peer_has_its_source(built):
    assert built[0].source == "MaskHuBERT: Jang et al. 2023; ARMHuBERT's maskhubert-960.yaml"
    assert built[0].printed_millions == 26.64 and built[0].weights == "random, seed 0"


@pytest.mark.parametrize(
    "text, message",
    [
        ("peer:distilhuber", "must be one of .*'peer:distilhubert'.*Did you mean distilhubert"),
        ("peers:distilhubert", "must begin with one of .*Did you mean peer"),
        ("peer:", "a name must follow peer:"),
        ("peer:maskhubert+masked", "a dense model has nothing to mask"),
    ],
)
def test_a_wrong_peer_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        Builder(random=True).build(parse(text))


def test_a_peer_has_no_trained_weights():
    with pytest.raises(UserError, match="'peer:distilhubert': is a structure without weights. Add --random"):
        Builder(random=False).build(parse("peer:distilhubert"))


def test_every_structure_is_timed_or_listed_as_not_timed():
    names = [parse(text) for text in (peers.BASELINE, *peers.MODELS)]
    assert [name.source for name in names if name.library == "peer"] == list(PEERS)
    assert {"ours:even", "ours:conc", "ours:hubert_base"} <= set(peers.MODELS)
    assert "reuses the attention map" in peers.NOT_TIMED["ARMHuBERT"] and "DPHuBERT" in peers.NOT_TIMED
    assert all(name in GRAMMAR for name in PEERS)
