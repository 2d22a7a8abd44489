"""A captured step, replayed, is the eager step bit for bit, and follows its learning rate."""

import pytest
import torch

from pyparallel import optim

CASES = {
    "AdamW": (optim.AdamW, {}),
    "AdamW master clipped": (optim.AdamW, {"master": "fp32", "max_norm": 0.5}),
    "AdamW 8bit": (optim.AdamW, {"state_dtype": "8bit"}),
    "SGD": (optim.SGD, {"momentum": 0.9}),
    "Lion stochastic": (optim.Lion, {"stochastic_rounding": True}),
}
SIZES = [5, 0, 2049, 70_001, *range(1, 600)]  # more than kernel arguments hold


def make(case, generator, lr):
    cls, options = CASES[case]
    device = generator.device
    params = [torch.randn(n, generator=generator, device=device).bfloat16() for n in SIZES]
    leaves = [param.clone().requires_grad_() for param in params]
    for leaf, param in zip(leaves, params, strict=True):
        leaf.grad = torch.zeros_like(param)
    return leaves, cls(leaves, lr=lr, **options)


@pytest.mark.parametrize("case", CASES)
def test_replays_are_eager_steps(case, generator):
    state = generator.get_state()
    lrs = [torch.full((), 0.1, device=generator.device) for _ in range(2)]
    captured, in_graph = make(case, generator, lrs[0])
    generator.set_state(state)
    eager, plain = make(case, generator, lrs[1])

    def feed():
        for one, other in zip(captured, eager, strict=True):
            one.grad.copy_(torch.randn(one.shape, generator=generator, device=one.device))
            other.grad.copy_(one.grad)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):  # makes the state
            feed()
            in_graph.step()
            plain.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        in_graph.step()
    for lr in (0.1, 0.01, 0.5):
        feed()
        for own in lrs:
            own.fill_(lr)
        graph.replay()
        plain.step()
    for one, other in zip(captured, eager, strict=True):
        assert torch.equal(one, other)
        for key, value in in_graph.state[one].items():
            assert torch.equal(value, plain.state[other][key]), key
