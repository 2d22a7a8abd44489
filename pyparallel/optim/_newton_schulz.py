"""Newton-Schulz: stacks of matrices made nearly orthogonal by matrix products alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def orthogonalise(
    stack: Tensor, coefficients: tuple[float, float, float], *, steps: int, eps: float
) -> Tensor:
    """Roughly U V^T of every matrix's singular value decomposition: singular values of about 1.

    Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024. One quintic step
    is X -> a X + (b A + c A A) X with A = X X^T. Tall matrices take A = X^T X from the other side,
    which is the same polynomial of a smaller A and transposes nothing.

    Args:
        stack: [n, rows, columns], bfloat16; overwritten.
        coefficients: a, b, c.
        steps: how often.
        eps: the smallest norm that a matrix is divided by.

    Returns:
        [n, rows, columns], bfloat16, contiguous.
    """
    a, b, c = coefficients
    norms = torch.linalg.vector_norm(stack, dim=(-2, -1), keepdim=True)
    x = stack.div_(norms.clamp_(min=eps))  # the spectral norm is at most 1
    tall = x.size(-2) > x.size(-1)
    for _ in range(steps):
        gram = x.mT @ x if tall else x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, *((x, polynomial) if tall else (polynomial, x)), beta=a)
    return x


class Stacks:
    """Room for one matrix per parameter, those of equal shape in memory behind one another.

    Attributes:
        dtype: float64 for float64 parameters, else bfloat16.
        matrices: one per parameter, dense in the parameter's memory order (a transposed parameter's
            matrix is its transpose).
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        """Allocates the stacks, without values."""
        self.dtype = torch.float64 if params[0].dtype == torch.float64 else torch.bfloat16
        self._indices: dict[torch.Size, list[int]] = {}
        for index, param in enumerate(params):
            shape = param.shape if param.is_contiguous() else param.mT.shape
            self._indices.setdefault(shape, []).append(index)
        self._stacks = {
            shape: torch.empty((len(indices), *shape), dtype=self.dtype, device=params[0].device)
            for shape, indices in self._indices.items()
        }
        self.matrices = self._sorted()

    def orthogonalise(
        self, coefficients: tuple[float, float, float], *, steps: int, eps: float
    ) -> None:
        """Every matrix becomes its orthogonalised self, computed in bfloat16; other addresses."""
        for shape, stack in self._stacks.items():
            if stack.numel() > 0:
                narrow = stack.to(torch.bfloat16)
                result = orthogonalise(narrow, coefficients, steps=steps, eps=eps)
                self._stacks[shape] = result.to(self.dtype)
        self.matrices = self._sorted()

    def _sorted(self) -> list[Tensor]:
        pairs = [
            (index, matrix)
            for shape, indices in self._indices.items()
            for index, matrix in zip(indices, self._stacks[shape].unbind(), strict=True)
        ]
        return [matrix for _, matrix in sorted(pairs, key=lambda pair: pair[0])]
