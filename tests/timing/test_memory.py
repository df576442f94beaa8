"""Peak bytes of live tensors, compared with modules worked by hand."""

import pytest
import torch
from torch import nn

from s3prl_pruned.models.dummies import random_encoder, tiny_base
from s3prl_pruned.timing.memory import LiveBytes, peak_memory, private_bytes

FLOAT = 4  # bytes


def _peak(module, encode, batch):
    found = peak_memory(module, encode, batch)
    assert found.reserved is None  # a CPU's allocator says nothing
    return found.live


def test_a_chain_of_maps_needs_its_weights_its_input_and_two_neighbours():
    module = nn.Sequential(nn.Linear(100, 50, bias=False), nn.ReLU(), nn.Linear(50, 10, bias=False))
    weights, given, hidden, out = 100 * 50 + 50 * 10, 8 * 100, 8 * 50, 8 * 10
    x = torch.randn(8, 100)
    found = _peak(module, lambda batch: module(batch[0]), [x])
    # ReLU's input and output are alive at the same time; nothing later is as large
    assert found == FLOAT * (weights + given + 2 * hidden)
    assert out < hidden


def test_tensors_that_the_caller_keeps_still_count():
    module = nn.Linear(10, 10, bias=False)
    x, kept = torch.randn(5, 10), []

    def encode(batch):
        y = batch[0]
        for _ in range(7):
            y = module(y)
            kept.append(y)

    assert _peak(module, encode, [x]) == FLOAT * (10 * 10 + 5 * 10 + 7 * 5 * 10)


def test_views_and_writing_in_place_need_nothing_more():
    x = torch.randn(64, 64)
    with torch.inference_mode(), LiveBytes([x]) as live:
        y = x + 1
        y.t()[3:9].add_(1)
        y.view(-1).unfold(0, 64, 1).sum()
    assert live.peak == FLOAT * (2 * 64 * 64 + 1)


def test_freed_tensors_do_not_count():
    with LiveBytes() as live:
        for _ in range(10):
            torch.zeros(1000)
    assert live.peak == FLOAT * 1000
    with LiveBytes() as live:
        both = [torch.zeros(1000) for _ in range(10)]
    assert live.peak == FLOAT * 1000 * len(both)


def test_an_existing_tensor_counts_from_its_first_use():
    table, module = torch.randn(500), nn.Identity()
    assert _peak(module, lambda batch: batch[0] * table, [torch.randn(500)]) == FLOAT * 3 * 500


def test_parameters_that_are_not_used_and_buffers_count_once():
    module = nn.Module()
    module.a, module.b = nn.Parameter(torch.zeros(30)), nn.Parameter(torch.zeros(20, dtype=torch.float64))
    module.register_buffer("half_of_a", module.a[:15])
    x = torch.zeros(3)
    assert _peak(module, lambda batch: None, [x]) == 30 * FLOAT + 20 * 8 + 3 * FLOAT


def test_composite_operations_are_decomposed_in_inference_mode_too():
    """Attention's scores exist only inside one call of torch's function."""
    query = torch.randn(1, 2, 50, 8)
    mask = torch.zeros(50, 50, requires_grad=True)  # prevents torch's fused kernel, even without gradients

    def attend():
        nn.functional.scaled_dot_product_attention(query, query, query, attn_mask=mask)

    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        with torch.inference_mode(), LiveBytes([query, mask]) as inference:
            attend()
        with torch.no_grad(), LiveBytes([query, mask]) as plain:
            attend()
    assert inference.peak == plain.peak >= FLOAT * (query.numel() + mask.numel() + 2 * 2 * 50 * 50)


@pytest.mark.parametrize("samples", [2000, 8000])
def test_an_encoder_needs_its_parameters_and_all_its_hidden_states(samples):
    encoder = random_encoder(tiny_base(), seed=0)
    wav = torch.randn(samples)
    found = _peak(encoder, lambda batch: encoder(batch[0][None]).hidden_states, [wav])
    states = (encoder.config.num_layers + 1) * encoder.config.num_frames(samples) * encoder.config.embed_dim
    assert found > FLOAT * (encoder.num_parameters() + samples + states)


def test_the_memory_of_graphs_is_read_from_their_pools(monkeypatch):
    def segment(device, pool, size):
        return {"device": device, "segment_pool_id": pool, "total_size": size}

    segments = [segment(0, (0, 0), 1000), segment(0, (0, 1), 200), segment(1, (0, 1), 50), segment(0, [1, 0], 7)]
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: segments)
    assert private_bytes(torch.device("cuda:0")) == 207 and private_bytes(torch.device("cuda:1")) == 50
    assert private_bytes(torch.device("cpu")) == 0


@pytest.mark.cuda
def test_a_graphs_memory_is_seen_although_its_replay_allocates_nothing():
    x = torch.zeros(2**20, device="cuda")
    torch.cuda.synchronize()
    before = private_bytes(x.device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = (x + 1) * (x + 2)
    kept = private_bytes(x.device) - before
    found = peak_memory(nn.Identity(), lambda batch: graph.replay(), [x], graph_bytes=kept)
    assert found.live >= FLOAT * 2 * 2**20 and found.reserved >= found.live and y.sum() == 2 * 2**20
