"""Adam and AdamW on CUDA against torch's in float64, over lists of mixed sizes and alignments."""

import pytest
import torch

from pyparallel.optim import Adam, AdamW

EDGES = [0, 1, 7, 8, 9, 0, 255, 2047, 2048, 2049, 20_011, 300_001, 0]
MANY = [0, *(1 + index * 37 % 300 for index in range(1100)), 0]  # more than kernel arguments hold
# A power of two: where gradient and penalty cancel, float32 and float64 agree that nothing is left.
DECAY = 0.125
CASES = {
    "adamw": (AdamW, torch.optim.AdamW, {"weight_decay": DECAY}),
    "adam": (Adam, torch.optim.Adam, {"weight_decay": DECAY, "maximize": True}),
    "amsgrad": (AdamW, torch.optim.AdamW, {"weight_decay": DECAY, "amsgrad": True}),
}


def random(size, dtype, generator, shift=0):
    """A tensor that starts `shift` elements into its memory."""
    shape, device = (size + shift,), generator.device
    return torch.randn(shape, generator=generator, device=device).to(dtype)[shift:]


def make_params(sizes, dtype, generator, shift=0):
    return [torch.nn.Parameter(random(size, dtype, generator, shift)) for size in sizes]


def set_grads(params, generator, shift=0):
    for param in params:
        param.grad = random(param.numel(), param.dtype, generator, shift)


def copies(params):
    return [torch.nn.Parameter(param.detach().clone()) for param in params]


def references(params):
    return [torch.nn.Parameter(param.detach().double()) for param in params]


def copy_grads(params, targets):
    for param, target in zip(params, targets, strict=True):
        target.grad = param.grad.to(target.dtype, copy=True)


def assert_bits_equal(actual, expected):
    for index, (a, b) in enumerate(zip(actual, expected, strict=True)):
        assert torch.equal(a, b), f"tensor {index} of {a.numel()} elements"


def state_of(optimizer, params):
    return [optimizer.state[param][key] for param in params for key in optimizer.state[param]]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shift", [0, 1, 3], ids="shift{}".format)
@pytest.mark.parametrize("sizes", [EDGES, MANY], ids=["edges", "many"])
def test_float32_follows_torch_in_float64(case, shift, sizes, generator):
    ours, theirs, options = CASES[case]
    params = make_params(sizes, torch.float32, generator, shift)
    expected = references(params)
    optimizer = ours(params, lr=1e-2, **options)
    reference = theirs(expected, lr=1e-2, **options)
    for step in range(1, 4):
        set_grads(params, generator, shift)
        copy_grads(params, expected)
        optimizer.step()
        reference.step()
        for param, value in zip(params, expected, strict=True):
            torch.testing.assert_close(param.double(), value, rtol=2e-6, atol=2e-6)
            assert optimizer.state[param]["step"].item() == step


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shift", [0, 1], ids="shift{}".format)
def test_masters_follow_torch_in_float64(case, dtype, shift, generator):
    ours, theirs, options = CASES[case]
    params = make_params(EDGES, dtype, generator, shift)
    expected = references(params)
    optimizer = ours(params, lr=1e-2, master="fp32", **options)
    reference = theirs(expected, lr=1e-2, **options)
    for _ in range(3):
        set_grads(params, generator, shift)
        copy_grads(params, expected)
        optimizer.step()
        reference.step()
        for param, value in zip(params, expected, strict=True):
            master = optimizer.state[param]["master"]
            torch.testing.assert_close(master.double(), value, rtol=2e-6, atol=2e-6)
            assert torch.equal(param, master.to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_without_masters_a_step_ends_in_one_rounding(dtype, generator):
    params = make_params(EDGES, dtype, generator)
    expected = references(params)
    optimizer = AdamW(params, lr=1e-2)
    reference = torch.optim.AdamW(expected, lr=1e-2)
    set_grads(params, generator)
    copy_grads(params, expected)
    optimizer.step()
    reference.step()
    unit = torch.finfo(dtype).eps / 2  # half a unit in the last place, relative
    for param, value in zip(params, expected, strict=True):
        torch.testing.assert_close(param.double(), value, rtol=1.01 * unit, atol=2e-6)


def test_agrees_with_torchs_fused_step(generator):
    params = make_params(EDGES, torch.float32, generator)
    expected = copies(params)
    optimizer = AdamW(params, lr=1e-2)
    reference = torch.optim.AdamW(expected, lr=1e-2, fused=True)
    for _ in range(3):
        set_grads(params, generator)
        copy_grads(params, expected)
        optimizer.step()
        reference.step()
    for param, value in zip(params, expected, strict=True):
        torch.testing.assert_close(param, value, rtol=2e-6, atol=2e-6)


def test_a_step_is_reproducible(generator):
    params = make_params(EDGES, torch.bfloat16, generator)
    again = copies(params)
    set_grads(params, generator)
    copy_grads(params, again)
    first, second = AdamW(params, master="fp32"), AdamW(again, master="fp32")
    first.step()
    second.step()
    assert_bits_equal(params, again)
    assert_bits_equal(state_of(first, params), state_of(second, again))


@pytest.mark.parametrize("flag", [1.0, 2.0, float("nan")])
def test_any_found_inf_skips_the_step(flag, generator):
    params = make_params(EDGES, torch.bfloat16, generator)
    optimizer = AdamW(params, lr=1e-2, master="fp32", amsgrad=True)
    set_grads(params, generator)
    optimizer.step()
    before = copies(params)
    state = [value.clone() for value in state_of(optimizer, params)]
    set_grads(params, generator)
    optimizer.found_inf = torch.full((), flag, device=generator.device)
    optimizer.step()
    assert_bits_equal(params, before)
    assert_bits_equal(state_of(optimizer, params), state)


@pytest.mark.parametrize("unscale_first", [False, True])
def test_grad_scaler_gives_the_unscaled_step(unscale_first, generator):
    params = make_params(EDGES, torch.float32, generator)
    expected = copies(params)
    optimizer, plain = AdamW(params, lr=1e-2), AdamW(expected, lr=1e-2)
    weights = [random(size, torch.float32, generator) for size in EDGES]
    scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
    scaler.scale(sum((p * w).sum() for p, w in zip(params, weights, strict=True))).backward()
    if unscale_first:
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    for param, weight in zip(expected, weights, strict=True):
        param.grad = weight.clone()
    plain.step()
    assert_bits_equal(params, expected)  # a power of two scales without rounding


def test_grad_scaler_backs_off_and_skips(generator):
    params = make_params([9, 2049], torch.float32, generator)
    before = copies(params)
    optimizer = AdamW(params, lr=1e-2)
    scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
    scaler.scale(sum((param * float("inf")).sum() for param in params)).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 512.0
    assert_bits_equal(params, before)
    assert all(optimizer.state[param]["step"].item() == 0 for param in params)


def test_beyond_2_to_the_31_elements(generator):
    numel, tail = 2**31 + 4099, 5000
    if torch.cuda.mem_get_info()[0] < 14 * numel:
        pytest.skip("less than 28 GiB of free device memory")
    param = torch.nn.Parameter(torch.zeros(numel, dtype=torch.bfloat16, device=generator.device))
    alone = torch.nn.Parameter(random(tail, torch.bfloat16, generator))
    alone.grad = random(tail, torch.bfloat16, generator)
    param.grad = torch.zeros_like(param)
    param.data[-tail:] = alone.data
    param.grad[-tail:] = alone.grad
    AdamW([param], lr=1e-2).step()
    AdamW([alone], lr=1e-2).step()
    assert torch.equal(param[-tail:], alone)
    assert not param[:-tail].any()
