"""The distillation loss compared with errors written out in float64, without padded frames."""

import collections
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.objectives.distill import DistillConfig, LayerDistillation

L, B, T, D = 6, 3, 7, 5
VALID = torch.arange(T) < torch.tensor([[7], [4], [1]])


@pytest.fixture
def states():
    generator = torch.Generator().manual_seed(0)

    def random():
        return [torch.randn(B, T, D, generator=generator) for _ in range(L + 1)]

    return random(), random()


def objective(num_pairs=4, *, identity=False, **changes):
    distillation = LayerDistillation(num_layers=L, embed_dim=D, config=DistillConfig(num_pairs=num_pairs, **changes))
    if not identity:
        torch.nn.init.normal_(distillation.projection.weight, generator=torch.Generator().manual_seed(1))
    return distillation


def mean_squared_error(weight, student, teacher):
    """Error of one pair, element by element over the valid frames."""
    total, count = 0.0, 0
    for b in range(B):
        for t in range(T):
            if VALID[b, t]:
                difference = weight.double() @ student[b, t].double() - teacher[b, t].double()
                total += float(difference @ difference)
                count += D
    return total / count


def test_the_map_starts_as_the_identity_and_has_no_bias():
    distillation = objective(identity=True)
    assert torch.equal(distillation.projection.weight, torch.eye(D))
    assert [name for name, _ in distillation.named_parameters()] == ["projection.weight"]
    assert distillation.teacher_layers == [2, 3, 4, 6]


@pytest.mark.parametrize("identity", [True, False])
def test_the_loss_is_the_mean_squared_error_of_each_pair(states, identity):
    student, teacher = states
    distillation = objective(identity=identity)
    pairs = [(3, 5), (2, 2), (0, 1)]
    losses = distillation(student, teacher, VALID, pairs) / VALID.sum()
    weight = distillation.projection.weight.detach()
    expected = [mean_squared_error(weight, student[j + 1], teacher[distillation.teacher_layers[k]]) for k, j in pairs]
    assert losses.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("pairing", ["learned", "fixed"])
def test_the_target_of_a_cluster_is_the_mean_of_its_states(states, pairing):
    student, teacher = states
    clusters = ((1, 2, 3), (4,), (5, 6))
    distillation = objective(clusters=clusters, pairing=pairing)
    assert distillation.teacher_layers == [3, 4, 6]
    assert distillation.pairs == (None if pairing == "learned" else [(0, 2), (1, 3), (2, 5)])
    pairs = [(2, 5), (1, 3), (0, 0)]
    losses = distillation(student, teacher, VALID, pairs) / VALID.sum()
    weight = distillation.projection.weight.detach()
    means = [sum(teacher[state].double() for state in cluster) / len(cluster) for cluster in clusters]
    expected = [mean_squared_error(weight, student[j + 1], means[k]) for k, j in pairs]
    assert losses.tolist() == pytest.approx(expected, rel=1e-5)
    errors = distillation.errors(student, teacher, VALID) / VALID.sum()
    assert errors.shape == (3, L) and float(errors[0, 0]) == pytest.approx(expected[2], rel=1e-5)


def test_there_may_be_fewer_clusters_than_num_pairs():
    config = DistillConfig(clusters=((1,), (2,), (3,)))  # num_pairs is 4 by default, and is ignored
    assert LayerDistillation(num_layers=3, embed_dim=D, config=config).teacher_layers == [1, 2, 3]


@pytest.mark.parametrize(
    ("clusters", "said"),
    [
        ([], "each state once"),
        ([[1, 2], []], "each state once"),
        ([[1, 2], [2, 3]], "each state once"),
        ([[3, 4], [1, 2]], "each state once"),
        ([[-1, 2]], "each state once"),
        ([[1, 2], [3, 7]], "states 0 to 6"),
    ],
)
def test_wrong_clusters_are_one_clear_error(clusters, said):
    with pytest.raises(UserError, match=said):
        LayerDistillation(num_layers=L, embed_dim=D, config=from_dict(DistillConfig, {"clusters": clusters}, "recipe"))


def l1_minus_cosine(student, teacher, *, l1, cosine, log_sigmoid):
    """Error of one pair, frame by frame in float64 (Chang et al. 2022, eq. 1; DPHuBERT's without the logarithm)."""
    terms = []
    for b in range(B):
        for t in range(T):
            if VALID[b, t]:
                x, y = student[b, t].double(), teacher[b, t].double()
                similarity = float(x @ y / (x.norm() * y.norm()))
                angle = math.log(1 + math.exp(-similarity)) if log_sigmoid else -similarity
                terms.append(l1 * float((x - y).abs().mean()) + cosine * angle)
    return sum(terms) / len(terms)


@pytest.mark.parametrize("log_sigmoid", [True, False])
@pytest.mark.parametrize(("l1", "cosine"), [(1.0, 1.0), (0.5, 2.0), (0.0, 1.0), (1.0, 0.0)])
def test_l1_and_cosine_are_those_of_distilhubert_and_dphubert(states, log_sigmoid, l1, cosine):
    student, teacher = states
    changes = {"l1_weight": l1, "cosine_weight": cosine, "cosine": "log_sigmoid" if log_sigmoid else "raw"}
    distillation = objective(loss="l1_cosine", **changes)
    pairs = [(3, 5), (2, 2), (0, 1)]
    losses = distillation(student, teacher, VALID, pairs) / VALID.sum()
    weight = distillation.projection.weight.detach()
    expected = [
        l1_minus_cosine(
            student[j + 1] @ weight.T,
            teacher[distillation.teacher_layers[k]],
            l1=l1,
            cosine=cosine,
            log_sigmoid=log_sigmoid,
        )
        for k, j in pairs
    ]
    assert losses.tolist() == pytest.approx(expected, rel=1e-5)
    errors = distillation.errors(student, teacher, VALID) / VALID.sum()
    assert [float(errors[k, j]) for k, j in pairs] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", ["mse", "l1_cosine"])
def test_fixed_pairs_are_states_of_the_same_number_through_two_maps(states, loss):
    """State 0 has a map of its own, all others share one (DPHuBERT's run.sh: `0.4,8,12`)."""
    student, teacher = states
    distillation = objective(pairing="fixed", loss=loss, identity=True)
    assert distillation.teacher_layers == [0, 2, 4, 6] and distillation.pairs == [(0, -1), (1, 1), (2, 3), (3, 5)]
    same = distillation(teacher, teacher, VALID, distillation.pairs) / VALID.sum()
    assert same.tolist() == pytest.approx([0.0 if loss == "mse" else math.log(1 + math.exp(-1))] * 4, abs=1e-6)
    with torch.no_grad():
        distillation.input_projection.bias += 3.0
        distillation.projection.weight *= 2
    moved = [state + 3.0 if i == 0 else 2 * state for i, state in enumerate(student)]
    plain = objective(pairing="fixed", loss=loss, identity=True)
    assert torch.allclose(
        distillation(student, teacher, VALID, distillation.pairs), plain(moved, teacher, VALID, plain.pairs), rtol=1e-4
    )
    assert sorted(name for name, _ in distillation.named_parameters()) == [
        f"{module}.{part}" for module in ("input_projection", "projection") for part in ("bias", "weight")
    ]


def test_fixed_pairs_train_the_input_of_the_first_layer_too(states):
    student, teacher = states
    student = [state.requires_grad_() for state in student]
    distillation = objective(pairing="fixed")
    distillation(student, teacher, VALID, distillation.pairs).sum().backward()
    assert [state.grad is not None for state in student] == [True, False, True, False, True, False, True]
    assert objective(1, pairing="fixed").pairs == [(0, 5)] and objective().pairs is None


def test_errors_are_those_of_every_possible_pair_in_order(states):
    student, teacher = states
    distillation = objective()
    errors = distillation.errors(student, teacher, VALID)
    assert errors.shape == (4, L) and not errors.requires_grad
    weight = distillation.projection.weight.detach()
    for k, layer in enumerate(distillation.teacher_layers):
        for j in range(L):
            expected = mean_squared_error(weight, student[j + 1], teacher[layer])
            assert float(errors[k, j] / VALID.sum()) == pytest.approx(expected, rel=1e-5)


class Operations(TorchDispatchMode):
    """Counts the operations that torch runs, by name."""

    def __init__(self):
        super().__init__()
        self.counts = collections.Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counts[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))

    @property
    def waits(self):
        """Number of operations for whose result, or size of the output, the CPU has to wait."""
        return self.counts["nonzero"] + self.counts["_local_scalar_dense"] + self.counts["index"]


@pytest.mark.parametrize("padded", [True, False])
def test_every_state_is_gathered_and_mapped_once_without_a_wait_per_pair(states, padded):
    student, teacher = states
    valid, distillation = VALID if padded else torch.ones_like(VALID), objective()
    with Operations() as every:
        distillation.errors(student, teacher, valid)
    with Operations() as matched:
        distillation(student, teacher, valid, [(3, 5), (2, 5), (1, 5), (0, 0)])
    for operations, mapped in ((every, L), (matched, 2)):
        assert operations.counts["mm"] == mapped
        assert operations.counts["index_select"] == padded * (4 + mapped)
        assert operations.waits == 1, "the number of valid frames"


@pytest.mark.parametrize(
    "changes", [{"loss": "l1_cosine"}, {"pairing": "fixed"}, {"pairing": "fixed", "loss": "l1_cosine"}]
)
@pytest.mark.parametrize("pairs", [[(3, 5), (1, 5), (0, 0), (3, 0)], [(2, 1)]])
def test_pairs_that_share_a_state_have_the_same_errors_and_gradients_as_alone(states, changes, pairs):
    """Compared with float64, where each pair is mapped separately."""
    student, teacher = states
    distillation = objective(**changes)
    student = [state.requires_grad_() for state in student]
    together = distillation(student, teacher, VALID, pairs)
    together.sum().backward()
    exact = [state.detach().double().requires_grad_() for state in student]
    weight, bias = distillation.projection.weight.detach().double(), distillation.projection.bias
    alone = []
    for k, j in pairs:
        x = exact[j + 1][VALID] @ weight.T + (0 if bias is None else bias.detach().double())
        y = teacher[distillation.teacher_layers[k]][VALID].double()
        if "loss" in changes:
            cosine = (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1))
            alone.append((x - y).abs().mean(1).sum() - torch.log(torch.sigmoid(cosine)).sum())
        else:
            alone.append((x - y).square().mean(1).sum())
    sum(alone).backward()
    assert together.tolist() == pytest.approx([float(error.detach()) for error in alone], rel=1e-5)
    for state, other in zip(student, exact):
        assert (state.grad is None) == (other.grad is None)
        if state.grad is not None:
            torch.testing.assert_close(state.grad, other.grad.float(), rtol=1e-4, atol=1e-5)


def test_padded_frames_have_no_effect_and_no_gradient(states):
    student, teacher = states
    distillation = objective()
    before = distillation(student, teacher, VALID, [(0, 0), (3, 5)])
    student = [state.masked_fill(~VALID[..., None], float("nan")).requires_grad_() for state in student]
    teacher = [state.masked_fill(~VALID[..., None], float("inf")) for state in teacher]
    after = distillation(student, teacher, VALID, [(0, 0), (3, 5)])
    torch.testing.assert_close(after, before)
    after.sum().backward()
    assert (student[1].grad[~VALID] == 0).all() and (student[1].grad[VALID] != 0).any()


def test_micro_batches_add_up_to_the_batch(states):
    student, teacher = states
    distillation, pairs = objective(), [(1, 2), (0, 0)]
    whole = distillation(student, teacher, VALID, pairs)
    parts = [
        distillation([s[b : b + 1] for s in student], [t[b : b + 1] for t in teacher], VALID[b : b + 1], pairs)
        for b in range(B)
    ]
    assert torch.allclose(whole, sum(parts), rtol=1e-5)


def test_without_pairs_the_loss_and_its_gradient_are_zero(states):
    student, teacher = states
    distillation = objective()
    losses = distillation(student, teacher, VALID, [])
    assert losses.shape == (0,) and float(losses.detach().sum()) == 0
    losses.sum().backward()
    assert (distillation.projection.weight.grad == 0).all()


def test_a_batch_without_a_valid_frame_has_no_error(states):
    student, teacher = states
    losses = objective()(student, teacher, torch.zeros_like(VALID), [(3, 5), (0, 0)])
    assert losses.tolist() == [0.0, 0.0]


def test_the_loss_is_fp32_under_autocast(states):
    student, teacher = ([state.half() for state in group] for group in states)
    distillation, pairs = objective(), [(3, 5), (0, 0)]
    expected = distillation([s.float() for s in student], [t.float() for t in teacher], VALID, pairs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = distillation(student, teacher, VALID, pairs)
        errors = distillation.errors(student, teacher, VALID)
    torch.testing.assert_close(losses, expected)  # bfloat16 has steps of 4e-3
    assert errors.dtype == torch.float32


def test_the_gradient_reaches_student_and_map_but_not_the_input_of_layer_1(states):
    student, teacher = states
    student = [state.requires_grad_() for state in student]
    distillation = objective()
    distillation(student, teacher, VALID, [(3, 5), (0, 0)]).sum().backward()
    assert [state.grad is not None for state in student] == [False, True, False, False, False, False, True]
    assert distillation.projection.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: from_dict(DistillConfig, {"num_pairs": 0}, "here"), "`num_pairs` must be at least 1, but is 0"),
        (lambda: objective(7), "`num_pairs` must be at most the teacher's 6 layers, but is 7"),
        (lambda: from_dict(DistillConfig, {"loss": "l2"}, "here"), "loss: must be one of mse, l1_cosine, but is 'l2'"),
        (lambda: from_dict(DistillConfig, {"pairing": "free"}, "here"), "pairing: must be one of learned, fixed"),
        (lambda: from_dict(DistillConfig, {"l1_weight": -1}, "here"), "`l1_weight` must be at least 0, but is -1"),
        (
            lambda: from_dict(DistillConfig, {"l1_weight": 0, "cosine_weight": 0}, "here"),
            "are both 0, which leaves no loss",
        ),
    ],
)
def test_a_wrong_number_of_pairs_is_refused(build, message):
    with pytest.raises(UserError, match=message):
        build()
