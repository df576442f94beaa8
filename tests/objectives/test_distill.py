"""The distillation loss against the mean squared error written out in float64, padded frames left out."""

import pytest
import torch

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


def objective(num_pairs=4, *, identity=False):
    distillation = LayerDistillation(num_layers=L, embed_dim=D, config=DistillConfig(num_pairs=num_pairs))
    if not identity:
        torch.nn.init.normal_(distillation.projection.weight, generator=torch.Generator().manual_seed(1))
    return distillation


def mean_squared_error(weight, student, teacher):
    """Of one pair, element by element over the frames that count."""
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
    expected = [
        mean_squared_error(weight, student[j + 1], teacher[distillation.teacher_layers[k]]) for k, j in pairs
    ]
    assert losses.tolist() == pytest.approx(expected, rel=1e-5)


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


def test_padded_frames_have_no_say_and_get_no_gradient(states):
    student, teacher = states
    distillation = objective()
    before = distillation(student, teacher, VALID, [(0, 0), (3, 5)])
    student = [state.masked_fill(~VALID[..., None], float("nan")).requires_grad_() for state in student]
    teacher = [state.masked_fill(~VALID[..., None], float("inf")) for state in teacher]
    after = distillation(student, teacher, VALID, [(0, 0), (3, 5)])
    assert torch.equal(before, after)
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


def test_with_no_pair_the_loss_is_zero_and_trains_nothing(states):
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


def test_the_loss_is_in_single_precision_under_autocast(states):
    student, teacher = ([state.half() for state in group] for group in states)
    distillation, pairs = objective(), [(3, 5), (0, 0)]
    expected = distillation([s.float() for s in student], [t.float() for t in teacher], VALID, pairs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = distillation(student, teacher, VALID, pairs)
        errors = distillation.errors(student, teacher, VALID)
    assert torch.equal(losses, expected) and errors.dtype == torch.float32


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
    ],
)
def test_a_wrong_number_of_pairs_is_refused(build, message):
    with pytest.raises(UserError, match=message):
        build()
