"""Unstructured pruning: which weights are pruned, that they stay zero, and that checkpoints hold the masked weights."""

import numpy as np
import torch

from s3prl_pruned.compressors.magnitude import (
    plain_state,
    prunable_linears,
    prune_weights,
    set_weight_masks,
    weight_masks,
    weights_left,
)  # fmt: skip
from s3prl_pruned.models.dummies import random_encoder, tiny_base
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.sparsity.counts import prunable_weights
from tests.models.test_low_rank import factored

CONFIG = tiny_base()
ALL = prunable_weights(CONFIG, CompactSpec.dense(CONFIG))


def weights(encoder):
    state = plain_state(encoder)
    return {path: state[f"{path}.weight"].detach().clone().numpy() for path in prunable_linears(encoder)}


def test_the_smallest_weights_of_all_layers_are_pruned():
    """Against numpy's sort of all of them together."""
    encoder = random_encoder(CONFIG, seed=0)
    before = weights(encoder)
    assert sum(w.size for w in before.values()) == ALL
    prune_weights(encoder, ALL // 5)
    threshold = np.sort(np.concatenate([np.abs(w).ravel() for w in before.values()]))[-(ALL // 5)]
    after = weights(encoder)
    for path, w in before.items():
        assert np.array_equal(after[path], np.where(np.abs(w) >= threshold, w, 0)), path
    assert sum(np.count_nonzero(w) for w in after.values()) == ALL // 5


def test_biases_norms_and_the_cnn_are_not_pruned():
    encoder = random_encoder(CONFIG, seed=0)
    before = {name: p.clone() for name, p in encoder.state_dict().items()}
    prune_weights(encoder, ALL // 10)
    changed = {name for name, p in plain_state(encoder).items() if not torch.equal(p, before[name])}
    assert changed == {f"{path}.weight" for path in prunable_linears(encoder)}
    assert plain_state(encoder).keys() == before.keys()


def test_training_between_rounds_changes_no_pruned_weight_and_keeps_the_parameters():
    """The optimiser is made before the first round; pruned weights stay zero despite momentum and weight decay."""
    encoder = random_encoder(CONFIG, seed=0)
    objects = {id(p) for p in encoder.parameters()}
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-2, weight_decay=0.1)
    wavs, gone = torch.randn(2, 1500), {}
    for kept in (ALL, 3 * ALL // 4, ALL // 2, ALL // 4):
        prune_weights(encoder, kept)
        for _ in range(2):
            encoder(wavs).hidden_states[-1].square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        now = {path: w == 0 for path, w in weights(encoder).items()}
        assert sum(zero.sum() for zero in now.values()) == ALL - kept
        assert all((now[path] >= zero).all() for path, zero in gone.items())
        gone = now
    assert {id(p) for p in encoder.parameters()} == objects
    moved = weights(encoder)["layers.0.attention.q_proj"]
    assert not np.allclose(
        moved[moved != 0], random_encoder(CONFIG, seed=0).layers[0].attention.q_proj.weight.detach().numpy()[moved != 0]
    )


def test_masks_and_plain_weights_restore_outputs_and_training(relative_differences):
    encoder = random_encoder(CONFIG, seed=0)
    prune_weights(encoder, ALL // 2)
    again = random_encoder(CONFIG, seed=1)
    again.load_state_dict(plain_state(encoder))
    set_weight_masks(again, {path: mask.clone() for path, mask in weight_masks(encoder).items()})
    wavs = torch.randn(1, 1500)
    outputs = [model(wavs).hidden_states[-1] for model in (encoder, again)]
    assert max(relative_differences(outputs[:1], outputs[1:])) <= 2e-5
    whole = random_encoder(CONFIG, seed=0)(wavs).hidden_states[-1]
    assert max(relative_differences([whole], outputs[1:])) > 0.01, "pruning is seen"
    for output in outputs:
        output.square().sum().backward()
    ours, theirs = (dict(model.named_parameters()) for model in (encoder, again))
    assert ours.keys() == theirs.keys() and any(name.endswith("weight_orig") for name in ours)
    for name, p in ours.items():
        if p.grad is not None:
            largest = float(p.grad.abs().max())
            torch.testing.assert_close(theirs[name].grad, p.grad, rtol=0, atol=1e-5 * largest + 1e-4, msg=name)


def test_weights_of_pruned_heads_and_rows_are_pruned_first():
    encoder = random_encoder(CONFIG, seed=0)
    masks = {
        (1, "z_head"): torch.tensor([1.0, 0.0, 1.0, 1.0]),
        (1, "z_int"): torch.ones(20).index_fill(0, torch.tensor([3]), 0),
    }
    silent = 4 * 6 * 24 + 2 * 24
    prune_weights(encoder, ALL - silent, masks)
    found = weights(encoder)
    assert (
        not found["layers.1.attention.q_proj"][6:12].any() and not found["layers.1.attention.out_proj"][:, 6:12].any()
    )
    assert not found["layers.1.feed_forward.fc1"][3].any() and not found["layers.1.feed_forward.fc2"][:, 3].any()
    assert found["layers.0.attention.q_proj"].all()


def test_zeros_by_chance_do_not_count_as_pruned():
    encoder = random_encoder(tiny_base(ffn_dim=2000), seed=0)
    total = prunable_weights(encoder.config, encoder.spec)
    with torch.no_grad():
        encoder.layers[0].feed_forward.fc1.weight[0, :3] = 0
        assert weights_left(encoder) == total
        encoder.layers[0].feed_forward.fc1.weight[:100] = 0
    assert weights_left(encoder) == total - 100 * 24


def test_both_factors_of_a_low_rank_map_are_pruned():
    encoder = random_encoder(CONFIG, seed=0, spec=factored(CONFIG))
    names = prunable_linears(encoder)
    assert {
        "layers.0.attention.q_proj.down",
        "layers.0.attention.q_proj.up",
        "layers.1.attention.q_proj",
    } <= names.keys()
    total = prunable_weights(CONFIG, encoder.spec)
    prune_weights(encoder, total // 3, {(0, "z_head"): torch.tensor([0.0, 1, 1, 1])})
    found = weights(encoder)
    assert sum(np.count_nonzero(w) for w in found.values()) == total // 3
    assert (
        not found["layers.0.attention.v_proj.up"][:6].any()
        and not found["layers.0.attention.out_proj.down"][:, :6].any()
    )
