"""Parameters that share memory are refused by name; one given twice is stepped as by torch."""

from __future__ import annotations

import pytest
import torch

from family import FAMILY
from pyparallel.optim import AdamW


def leaves(*views):
    params = [view.detach().requires_grad_() for view in views]
    for param in params:
        param.grad = torch.ones_like(param)
    return params


@pytest.mark.parametrize("member", FAMILY, ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_overlapping_views_are_refused_and_nothing_is_written(member, groups):
    base = torch.arange(10.0)
    before = base.clone()
    params = leaves(base[:6], torch.ones(3), base[5:])
    given = params if groups == 1 else [{"params": params[:2]}, {"params": params[2:]}]
    optimizer = member.ours(given)
    second = "parameter 2 of group 0" if groups == 1 else "parameter 0 of group 1"
    message = rf"parameter 0 of group 0, of shape \(6,\), and {second}, of shape \(5,\), share"
    for _ in range(2):  # the plan that was made for the first one is not good for the second
        with pytest.raises(ValueError, match=message):
            optimizer.step()
    assert torch.equal(base, before)


def test_neighbours_empty_views_and_unused_ones_are_fine():
    base = torch.ones(10)
    params = leaves(base[:5], base[5:], base[3:3], base[2:4])
    params[3].grad = None
    AdamW(params).step()
    assert (base != 1).all()


def test_dtype_and_length_of_the_views_do_not_matter():
    base = torch.zeros(8)
    inside, whole = leaves(base[6:7].view(torch.bfloat16), base)
    with pytest.raises(ValueError, match="share memory"):
        AdamW([inside, whole]).step()


def test_an_overlap_that_comes_later_is_noticed():
    base = torch.ones(4)
    params = leaves(base, torch.ones(4))
    optimizer = AdamW(params)
    optimizer.step()
    params[1].data = base
    before = base.clone()
    with pytest.raises(ValueError, match="share memory"):
        optimizer.step()
    assert torch.equal(base, before)


@pytest.mark.parametrize("member", [member for member in FAMILY if member.twin], ids=str)
def test_the_same_parameter_twice_is_stepped_twice_as_by_torch(member):
    (param,), (twin,) = leaves(torch.ones(70_001)), leaves(torch.ones(70_001))
    with pytest.warns(UserWarning, match="duplicate parameters"):
        ours = member.ours([param, param], lr=0.1)
    with pytest.warns(UserWarning, match="duplicate parameters"):
        theirs = member.twin([twin, twin], lr=0.1, foreach=False)
    for _ in range(3):
        ours.step()
        theirs.step()
    torch.testing.assert_close(param, twin)
