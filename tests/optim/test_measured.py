"""What the optimizers with norms or matrices keep whatever they compute: skips, scales, bits."""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import pytest
import torch

from adam_reference import copies
from pyparallel.optim import LAMB, LARS, Adafactor, Muon, NovoGrad

CASES = {
    "lamb": (LAMB, {"lr": 0.02, "weight_decay": 0.125}),
    "lars": (LARS, {"lr": 0.5, "momentum": 0.9, "weight_decay": 0.125, "trust_coefficient": 0.1}),
    "novograd": (NovoGrad, {"lr": 0.02, "weight_decay": 0.125}),
    "adafactor": (Adafactor, {"lr": 0.05, "weight_decay": 0.125, "eps": (1e-7, 1e-3)}),
    "muon": (Muon, {"lr": 0.02}),
}
SHAPES = [(0,), (1,), (513,), (7, 5), (70_001,), (2, 3, 4, 5), (0, 3), (300, 301), (0,)]
MATRICES = [(0, 3), (1, 1), (7, 5), (5, 7), (7, 5), (300, 301), (1, 9), (0, 3)]
KEPT = [
    (torch.float32, {}),
    (torch.float64, {}),
    (torch.float16, {"master": "fp32"}),
    (torch.bfloat16, {"master": "fp32"}),
    (torch.bfloat16, {"master": "remainder"}),
    (torch.bfloat16, {"stochastic_rounding": True, "seed": 5}),
    (torch.bfloat16, {}),
    (torch.float32, {"state_dtype": "bf16"}),
    (torch.float32, {"state_dtype": "8bit"}),
    (torch.bfloat16, {"state_dtype": "8bit", "master": "remainder"}),
]

each = pytest.mark.parametrize("case", CASES)


def shapes_of(case):
    return MATRICES if case == "muon" else SHAPES


def make(case, params, **more):
    cls, options = CASES[case]
    return cls(params, **{**options, **more})


def random_list(case, dtype=torch.float32):
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes_of(case)]


def give(*lists, scale=1.0):
    for params in zip(*lists, strict=True):
        grad = torch.randn(params[0].shape) * scale
        for param in params:
            param.grad = torch.empty_like(param).copy_(grad)


def train(optimizers, *lists, steps=3):
    for step in range(steps):
        give(*lists, scale=10.0 ** -(step % 3))
        for optimizer in optimizers:
            optimizer.step()


def snapshot(optimizer, params):
    states = [{k: v.clone() for k, v in optimizer.state[param].items()} for param in params]
    return [param.detach().clone() for param in params], states


def assert_same_bits(a, b):
    for index, (one, two) in enumerate(zip(a[0], b[0], strict=True)):
        assert torch.equal(one, two), f"parameter {index} of shape {tuple(one.shape)}"
    for index, (one, two) in enumerate(zip(a[1], b[1], strict=True)):
        assert one.keys() == two.keys()
        for key in one:
            assert torch.equal(one[key], two[key]), f"state {key} of parameter {index}"


def kept(case, options):
    if case == "adafactor" and "state_dtype" in options:
        pytest.skip("refused by name, see test_adafactor.py")
    return options


@each
@pytest.mark.parametrize("flag", [1.0, 2.0, float("nan")])
@pytest.mark.parametrize(("dtype", "options"), [KEPT[0], KEPT[3], KEPT[9]], ids=str)
def test_a_skipped_step_touches_nothing(case, flag, dtype, options):
    params = random_list(case, dtype)
    optimizer = make(case, params, **kept(case, options))
    train([optimizer], params, steps=2)
    before = snapshot(optimizer, params)
    for param in params:
        param.grad = torch.full_like(param, float("inf"))
    optimizer.found_inf = torch.tensor(flag)
    optimizer.step()
    assert_same_bits(snapshot(optimizer, params), before)
    give(params)
    optimizer.found_inf = torch.tensor(0.0)
    optimizer.step()
    assert not torch.equal(params[3], before[0][3])


@each
def test_the_scale_divides_once(case):
    params = random_list(case)
    twins = copies(params)
    ours, plain = make(case, params), make(case, twins)
    ours.grad_scale, ours.found_inf = torch.tensor(1024.0), torch.tensor(0.0)
    for _ in range(3):
        give(params, twins)
        for param in params:
            param.grad *= 1024.0
        ours.step()
        plain.step()
    assert_same_bits(snapshot(ours, params), snapshot(plain, twins))


@each
def test_max_norm_clips_as_torch_clips(case):
    params = random_list(case)
    twins = copies(params)
    ours, plain = make(case, params, max_norm=0.5), make(case, twins)
    for step in range(4):
        give(params, twins, scale=10.0**-step)
        norm = torch.nn.utils.clip_grad_norm_(twins, 0.5)
        ours.step()
        plain.step()
        torch.testing.assert_close(ours.last_grad_norm, norm, rtol=1e-5, atol=0)
    for param, twin in zip(params, twins, strict=True):
        # Muon's matrices are bfloat16: one that rounds the other way moves by a unit of that.
        atol = 0.02 * 2**-5 if case == "muon" else 1e-5
        torch.testing.assert_close(param, twin, rtol=1e-4, atol=atol)
    before = snapshot(ours, params)
    params[3].grad[0] = float("inf")
    ours.step()
    assert_same_bits(snapshot(ours, params), before)


@each
@pytest.mark.parametrize(("dtype", "options"), KEPT, ids=str)
def test_a_checkpoint_resumes_to_the_bit(case, dtype, options):
    params = random_list(case, dtype)
    first = make(case, params, **kept(case, options))
    train([first], params)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    twins = copies(params)
    second = make(case, twins, **options)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert_same_bits(snapshot(first, params), snapshot(second, twins))
    train((first, second), params, twins)
    assert_same_bits(snapshot(first, params), snapshot(second, twins))


@each
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_deepcopy_and_pickle_go_on_alike(case, clone):
    params = random_list(case, torch.bfloat16)
    original = make(case, params, master="fp32")
    train([original], params)
    twin = clone(original)
    twins = twin.param_groups[0]["params"]
    assert twins[1] is not params[1]
    train((original, twin), params, twins)
    assert_same_bits(snapshot(original, params), snapshot(twin, twins))


@each
def test_missing_gradients_leave_a_parameter_to_itself(case):
    """In a list as alone: each parameter has its own count, norms and states."""
    params = random_list(case)
    twins = copies(params)
    together, alone = make(case, params), [make(case, [twin]) for twin in twins]
    for step in range(5):
        give(params, twins)
        for index, (param, twin) in enumerate(zip(params, twins, strict=True)):
            if (step + index) % 3 == 0:
                param.grad = twin.grad = None
        together.step()
        for optimizer in alone:
            optimizer.step()
    for param, twin, optimizer in zip(params, twins, alone, strict=True):
        atol = 0.02 * 2**-5 if case == "muon" else 1e-6
        torch.testing.assert_close(param, twin, rtol=2e-6, atol=atol)
        own, other = together.state[param], optimizer.state[twin]
        assert own.keys() == other.keys()
        assert own.get("step") == other.get("step")


@each
def test_one_group_of_several_dtypes(case):
    dtypes = [torch.float32, torch.bfloat16, torch.float64, torch.float16, torch.float32]
    shape = (33, 17)
    params = [torch.randn(shape).to(dtype).requires_grad_() for dtype in dtypes]
    wide = [param.detach().double().requires_grad_() for param in params]
    ours, theirs = make(case, params), make(case, wide)
    for _ in range(3):
        give(params)
        for param, twin in zip(params, wide, strict=True):
            twin.grad = param.grad.double()
        ours.step()
        theirs.step()
    for param, twin in zip(params, wide, strict=True):
        tolerance = 2e-5 if case != "muon" else 2**-8
        if param.dtype in (torch.bfloat16, torch.float16):
            tolerance = 0.03
        torch.testing.assert_close(param.double(), twin, rtol=tolerance, atol=tolerance)


@each
@pytest.mark.parametrize(("dtype", "options"), [KEPT[0], KEPT[3], KEPT[4]], ids=str)
def test_dense_memory_of_any_order(case, dtype, options):
    plain = [torch.randn(9, 4), torch.randn(4, 9), torch.randn(33, 65)]
    moved = [tensor.t().contiguous().t() for tensor in plain]
    if case != "muon":
        plain.append(torch.randn(4, 3, 5, 2))
        moved.append(plain[-1].to(memory_format=torch.channels_last))
    params, twins = ([t.to(dtype).requires_grad_() for t in tensors] for tensors in (plain, moved))
    assert not any(twin.is_contiguous() for twin in twins)
    ours, theirs = make(case, params, **options), make(case, twins, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train((ours, theirs), params, twins)
    for param, twin in zip(params, twins, strict=True):
        tolerance = 1e-5 if case != "muon" else 0.02 * 2**-5
        if dtype == torch.bfloat16:
            tolerance += 2**-7
        torch.testing.assert_close(param, twin.contiguous(), rtol=tolerance, atol=tolerance)
        assert all(
            v.dim() != 4 or v.numel() != twin.numel() or v.stride() == twin.stride()
            for v in theirs.state[twin].values()
        )


@each
def test_groups_are_stepped_as_if_alone(case):
    first, second = random_list(case), random_list(case)
    options = {"lr": 0.3, "weight_decay": 0.5, "maximize": True}
    twins, others = copies(first), copies(second)
    together = make(case, [{"params": first}, {"params": second, **options}])
    alone = [make(case, twins), make(case, others, **options)]
    for _ in range(3):
        give(first + second, twins + others)
        together.step()
        for optimizer in alone:
            optimizer.step()
    assert_same_bits(snapshot(together, first), snapshot(alone[0], twins))
    assert_same_bits(snapshot(together, second), snapshot(alone[1], others))


@each
def test_maximize_descends_the_negated_gradient(case):
    params = random_list(case)
    twins = copies(params)
    ours, plain = make(case, params, maximize=True), make(case, twins)
    for _ in range(3):
        give(params, twins)
        for twin in twins:
            twin.grad.neg_()
        ours.step()
        plain.step()
    assert_same_bits(snapshot(ours, params), snapshot(plain, twins))


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_master_is_trained_like_a_float32_parameter(case, dtype):
    params = random_list(case, dtype)
    wide = [param.detach().float().requires_grad_() for param in params]
    ours, theirs = make(case, params, master="fp32"), make(case, wide)
    for _ in range(3):
        give(params)
        for param, twin in zip(params, wide, strict=True):
            twin.grad = param.grad.float()
        ours.step()
        theirs.step()
    for param, twin in zip(params, wide, strict=True):
        master = ours.state[param]["master"]
        assert torch.equal(master, twin)
        assert torch.equal(param, master.to(dtype))


@each
@pytest.mark.parametrize("state_dtype", ["bf16", "8bit"])
def test_narrow_states_stay_near_the_wide_ones(case, state_dtype):
    kept(case, {"state_dtype": state_dtype})
    params = random_list(case)
    twins = copies(params)
    narrow, wide = make(case, params, state_dtype=state_dtype), make(case, twins)
    before = copies(params)
    train((narrow, wide), params, twins, steps=4)
    for param, twin, start in zip(params, twins, before, strict=True):
        if param.numel() > 100:
            error, moved = (param - twin).norm(), (twin - start).norm()
            assert error < 0.2 * moved, (error, moved)
            assert error > 0


@each
@pytest.mark.usefixtures("threads")
def test_threads_do_not_change_the_bits(case):
    start, results = random_list(case), []
    grads = [torch.randn_like(param) for param in start]
    for threads in (1, 2):
        params = copies(start)
        optimizer = make(case, params)
        for _ in range(3):
            for param, grad in zip(params, grads, strict=True):
                param.grad = grad.clone()
            torch.set_num_threads(threads if case != "muon" else 1)  # torch's products may differ
            optimizer.step()
        results.append(snapshot(optimizer, params))
    assert_same_bits(*results)


@each
def test_a_closure_is_evaluated_and_its_loss_returned(case):
    param = torch.randn(6, 4, requires_grad=True)
    optimizer = make(case, [param])

    def closure():
        optimizer.zero_grad()
        loss = param.square().sum()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(5)]
    assert losses[-1] < losses[0]


@each
def test_a_tensor_as_lr_is_a_number_that_changes(case):
    params = random_list(case)
    twins = copies(params)
    rate = torch.tensor(0.5)
    ours, plain = make(case, params, lr=rate), make(case, twins, lr=0.5)
    for value in (0.5, 0.25):
        rate.fill_(value)
        plain.param_groups[0]["lr"] = value
        train((ours, plain), params, twins, steps=1)
    assert_same_bits(snapshot(ours, params), snapshot(plain, twins))


@each
@pytest.mark.parametrize("key", ["lr", "weight_decay"])
@pytest.mark.parametrize("value", [-0.5, float("nan")])
def test_a_rate_out_of_range_is_refused(case, key, value):
    with pytest.raises(ValueError, match=str(value)):
        make(case, [torch.zeros(2, 2, requires_grad=True)], **{key: value})


@pytest.mark.parametrize(
    ("case", "options", "text"),
    [
        ("lamb", {"betas": (1.0, 0.9)}, "Invalid beta parameter at index 0: 1.0"),
        ("lamb", {"eps": -1.0}, "Invalid epsilon value: -1.0"),
        ("lamb", {"trust_clip": float("nan")}, "Invalid trust_clip value: nan"),
        ("novograd", {"betas": (0.9, float("nan"))}, "Invalid beta parameter at index 1: nan"),
        ("novograd", {"eps": float("nan")}, "Invalid epsilon value: nan"),
        ("lars", {"momentum": -1.0}, "Invalid momentum value: -1.0"),
        ("lars", {"trust_coefficient": float("nan")}, "Invalid trust_coefficient value: nan"),
        ("lars", {"dampening": float("nan")}, "Invalid dampening value: nan"),
        ("lars", {"nesterov": True, "momentum": 0.0}, "Nesterov momentum requires a momentum"),
    ],
)
def test_other_hyperparameters_are_refused(case, options, text):
    with pytest.raises(ValueError, match=text):
        make(case, [torch.zeros(2, requires_grad=True)], **options)


@each
def test_a_state_of_another_shape_is_refused_whole(case):
    params = random_list(case)
    optimizer = make(case, params)
    train([optimizer], params)
    checkpoint = copy.deepcopy(optimizer.state_dict())
    key = next(k for k in checkpoint["state"][3] if k != "step")
    checkpoint["state"][3][key] = torch.zeros(11, 13)
    before = snapshot(optimizer, params)
    with pytest.raises(ValueError, match=rf"state '{key}' of parameter 3 has shape \(11, 13\)"):
        optimizer.load_state_dict(checkpoint)
    assert_same_bits(snapshot(optimizer, params), before)


@each
def test_shards_are_refused_by_name(case, tmp_path):
    tensor = pytest.importorskip("torch.distributed.tensor")
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        whole = torch.randn(4, 4)
        param = torch.nn.Parameter(tensor.distribute_tensor(whole, mesh, [tensor.Shard(0)]))
        param.grad = tensor.distribute_tensor(whole.clone(), mesh, [tensor.Shard(0)])
        with pytest.raises(TypeError, match=r"shape \(4, 4\) is a sharded DTensor"):
            make(case, [param]).step()
        assert torch.equal(param.to_local(), whole)
    finally:
        torch.distributed.destroy_process_group()
