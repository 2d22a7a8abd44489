"""Optimizers with norms or matrices: what they refuse, by name, before anything is written."""

from __future__ import annotations

import copy

import pytest
import torch

from measured_cases import assert_same_bits, each, make, random_list, snapshot, train


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
