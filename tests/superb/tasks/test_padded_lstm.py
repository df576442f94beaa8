"""The fast LSTM computes what ``nn.LSTM`` computes."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from s3prl_pruned.superb.tasks.padded_lstm import PaddedLSTM, use_padded_lstm


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lengths", [[9, 4, 7, 1], [5, 5, 5, 5], [1, 1, 1, 1]])
def test_outputs_and_gradients_equal_those_of_nn_lstm(bidirectional, bias, lengths):
    torch.manual_seed(0)
    theirs = nn.LSTM(6, 5, bidirectional=bidirectional, bias=bias, batch_first=True).double()
    ours = copy.deepcopy(theirs)
    assert use_padded_lstm(nn.ModuleList([ours])) == 1 and type(ours) is PaddedLSTM
    ours.load_state_dict(theirs.state_dict())  # names and shapes are the same
    x = torch.randn(4, max(lengths), 6, dtype=torch.float64)
    target = torch.randn(4, max(lengths), 10 if bidirectional else 5, dtype=torch.float64)

    results = []
    for lstm in (theirs, ours):
        data = x.clone().requires_grad_()
        packed = pack_padded_sequence(data, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
        output, output_lengths = pad_packed_sequence(lstm(packed)[0], batch_first=True)
        (output * target).sum().backward()
        assert output_lengths.tolist() == lengths
        results.append([output, data.grad, *(parameter.grad for parameter in lstm.parameters())])
    for theirs_value, ours_value in zip(*results, strict=True):
        assert torch.allclose(theirs_value, ours_value, rtol=0, atol=1e-9)


def test_the_comparison_fails_when_a_sequence_is_reversed_beyond_its_length(monkeypatch):
    monkeypatch.setattr("s3prl_pruned.superb.tasks.padded_lstm._reverse", lambda x, lengths: x.flip(1))
    with pytest.raises(AssertionError):
        test_outputs_and_gradients_equal_those_of_nn_lstm(True, True, [9, 4, 7, 1])


def test_other_modules_are_left_alone():
    model = nn.ModuleList([nn.GRU(2, 2, batch_first=True), nn.LSTM(2, 2), nn.LSTM(2, 2, num_layers=2)])
    assert use_padded_lstm(model) == 0
    assert [type(module) for module in model] == [nn.GRU, nn.LSTM, nn.LSTM]
