"""Newton-Schulz against the singular value decomposition, and torch's, matrix by matrix."""

from __future__ import annotations

import pytest
import torch

from pyparallel.optim._newton_schulz import Stacks, orthogonalise

JORDAN = (3.4445, -4.7750, 2.0315)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 5, 40), (2, 40, 5), (1, 1, 7), (4, 1, 1)])
def test_singular_values_become_about_1_and_vectors_stay(shape):
    stack = torch.randn(shape)
    result = orthogonalise(stack.bfloat16(), JORDAN, steps=8, eps=1e-7)
    assert result.shape == shape
    assert result.is_contiguous()
    left, values, right = torch.linalg.svd(stack, full_matrices=False)
    inside = left.mT @ result.float() @ right.mT
    diagonal = inside.diagonal(dim1=-2, dim2=-1)
    well = values > 0.1 * values.amax(-1, keepdim=True)  # smaller ones need more steps
    assert ((diagonal[well] > 0.6) & (diagonal[well] < 1.3)).all(), diagonal
    off = inside - torch.diag_embed(diagonal)
    assert off.abs().max() < 0.15, off.abs().max()


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_a_matrix_does_not_see_its_neighbours(shape):
    stack = torch.randn(3, *shape).bfloat16()
    stack[1] *= 1000
    together = orthogonalise(stack.clone(), JORDAN, steps=5, eps=1e-7)
    for index in range(3):
        alone = orthogonalise(stack[index : index + 1].clone(), JORDAN, steps=5, eps=1e-7)
        torch.testing.assert_close(together[index], alone[0], rtol=0, atol=2**-6)


def test_zeros_stay_zeros():
    result = orthogonalise(torch.zeros(2, 3, 4, dtype=torch.bfloat16), JORDAN, steps=5, eps=1e-7)
    assert not result.any()


def test_stacks_keep_each_parameters_place_and_memory_order():
    params = [torch.randn(3, 5), torch.randn(5, 3).t(), torch.randn(5, 3), torch.zeros(0, 4)]
    stacks = Stacks(params)
    assert [tuple(matrix.shape) for matrix in stacks.matrices] == [(3, 5), (5, 3), (5, 3), (0, 4)]
    for matrix, param in zip(stacks.matrices, params, strict=True):
        matrix.copy_(param if param.is_contiguous() else param.mT)
    stacks.orthogonalise(JORDAN, steps=5, eps=1e-7)
    for matrix, param in zip(stacks.matrices[:3], params, strict=False):
        expected = orthogonalise(param.bfloat16().clone()[None], JORDAN, steps=5, eps=1e-7)[0]
        own = matrix if param.is_contiguous() else matrix.mT
        torch.testing.assert_close(own, expected, rtol=0, atol=2**-5)
