"""Kernels run in the order of torch's current stream, and in CUDA graphs."""

import pytest
import torch

from pyparallel import _tensors
from pyparallel.optim import AdamW

LONG = 200_000_000  # cycles, a tenth of a second: a kernel on another stream would overtake


def make(generator, dtype=torch.bfloat16):
    shapes = [(0,), (9,), (2049,), (300, 301)]
    device = generator.device
    params = [
        torch.nn.Parameter(torch.randn(s, generator=generator, device=device).to(dtype))
        for s in shapes
    ]
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator, device=device).to(dtype)
    return params


def twin(params):
    """Parameters with the same values and gradients in memory of their own."""
    result = [torch.nn.Parameter(param.detach().clone()) for param in params]
    for param, source in zip(result, params, strict=True):
        param.grad = source.grad.clone()
    return result


def assert_same_training(params, optimizer, expected, reference):
    for param, value in zip(params, expected, strict=True):
        assert torch.equal(param, value)
        state, expected_state = optimizer.state[param], reference.state[value]
        assert state.keys() == expected_state.keys()
        for key in state:
            assert torch.equal(state[key], expected_state[key]), key


@pytest.mark.parametrize("master", [None, "fp32"])
def test_graph_replay_equals_eager(master, generator):
    params = make(generator)
    expected = twin(params)
    optimizer, reference = AdamW(params, master=master), AdamW(expected, master=master)
    optimizer.step()  # makes the state; a capture must not allocate it
    reference.step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    assert all(optimizer.state[param]["step"].item() == 1 for param in params)  # captured, not run
    for _ in range(3):
        for param, value in zip(params, expected, strict=True):
            param.grad.normal_(generator=generator)
            value.grad.copy_(param.grad)
        graph.replay()
        reference.step()
    torch.cuda.synchronize()
    assert_same_training(params, optimizer, expected, reference)
    assert all(optimizer.state[param]["step"].item() == 4 for param in params)


def test_graph_replay_reads_found_inf_on_the_device(generator):
    params = make(generator)
    optimizer = AdamW(params)
    optimizer.step()
    optimizer.found_inf = torch.zeros((), device=generator.device)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    before = [param.detach().clone() for param in params]
    optimizer.found_inf.fill_(1.0)
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))
    optimizer.found_inf.zero_()
    graph.replay()
    assert not torch.equal(params[-1], before[-1])
    assert all(optimizer.state[param]["step"].item() == 2 for param in params)


@pytest.mark.parametrize("side", [False, True], ids=["default stream", "side stream"])
def test_a_step_waits_for_the_gradients_and_torch_waits_for_the_step(side, generator):
    params = make(generator, torch.float32)
    expected = twin(params)
    optimizer, reference = AdamW(params), AdamW(expected)
    late = [torch.randn_like(param) for param in params]
    torch.cuda.synchronize()
    stream = torch.cuda.Stream() if side else torch.cuda.current_stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(LONG)
        for param, grad in zip(params, late, strict=True):
            param.grad.copy_(grad)
        optimizer.step()
        seen = [param.detach() * 1.0 for param in params]
    torch.cuda.synchronize()
    for param, grad in zip(expected, late, strict=True):
        param.grad.copy_(grad)
    reference.step()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))


def test_pack_and_sum_stay_on_the_current_stream(generator):
    tensors = [torch.zeros(5001, device=generator.device), torch.zeros(9, device=generator.device)]
    values = [torch.randn(t.shape, generator=generator, device=generator.device) for t in tensors]
    flat = torch.zeros(5010, device=generator.device)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(LONG)
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)
        _tensors.pack(tensors, flat, [0, 5001])
        total = _tensors.sum_of_squares([flat])
        seen = flat * 1.0
    torch.cuda.synchronize()
    assert torch.equal(seen, torch.cat(values))
    torch.testing.assert_close(
        total[0], torch.cat(values).double().square().sum(), rtol=1e-6, atol=0
    )
