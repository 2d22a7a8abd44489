"""PowerSGD: of each gradient matrix a low-rank factorisation travels.

Vogels, Karimireddy and Jaggi 2019 (arXiv:1905.13727), algorithms 1 and 2, for a matrix M of n rows
and m columns (gradient plus error) and rank r:

    P = mean of M Q                 n x r, over all ranks; Q is the last step's (warm start)
    P = orthonormal basis of P      the same on all ranks
    Q = mean of M^T P               m x r, over all ranks
    result = P Q^T,  error = M - P Q^T

A bucket makes two all_reduces: all its P, with what is not worth factorising, and all its Q.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyparallel import _tensors
from pyparallel.comm.communicator import Communicator
from pyparallel.comm.compression.compressor import Compressor
from pyparallel.comm.compression.staged import Stages
from pyparallel.comm.compression.state import ErrorState, Slot, TensorsByName


@dataclass(frozen=True)
class PowerSGD:
    """A matrix of n x m travels as two of n x r and m x r, in float32.

    Tensors of more dimensions are matrices of the outermost dimension in memory by the others.
    Vectors, and matrices for which r (n + m) >= n m, travel as they are.

    Attributes:
        rank: r, at least 1.
        start_step: gradients are averaged as they are in the steps before; counted from 0.
        seed: of the first Q, the same on all ranks.
    """

    rank: int = 4
    start_step: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the options."""
        if self.rank < 1 or self.start_step < 0:
            raise ValueError(
                "PowerSGD: rank must be at least 1 and start_step at least 0, they are "
                f"{self.rank} and {self.start_step}"
            )

    def over(
        self, communicator: Communicator, *, names: Collection[str] | None = None
    ) -> PowerSGDCompressor:
        """See Scheme.over."""
        return PowerSGDCompressor(self, communicator, names)


@dataclass(frozen=True)
class Matrix:
    """A slot worth factorising, with its views of the state's buffers.

    Attributes:
        slot: where it lies in the bucket.
        m: gradient plus error, later the error: n x m.
        p: n x r.
        q: m x r; the last step's between steps.
        first_q: what q starts from.
    """

    slot: Slot
    m: Tensor
    p: Tensor
    q: Tensor
    first_q: Tensor


class PowerSGDState(ErrorState):
    """The error and Q of every matrix; the buffers of the two all_reduces.

    Attributes:
        matrices: the slots worth factorising.
        vectors: the others.
        p_buffer: all P, then the vectors.
        q_buffer: all Q.
        vector_offsets: of the vectors in p_buffer.
    """

    def __init__(
        self, flat: Tensor, slots: Sequence[Slot], communicator: Communicator, scheme: PowerSGD
    ) -> None:
        """Draws the first Q."""
        super().__init__(flat, slots)
        sizes = {slot: _sizes(slot, scheme.rank) for slot in slots}
        self.vectors = [slot for slot, (n, m, r) in sizes.items() if r * (n + m) >= n * m]
        worth = [(slot, *size) for slot, size in sizes.items() if slot not in self.vectors]
        p_numel = sum(n * r for _, n, _, r in worth)
        q_numel = sum(m * r for _, _, m, r in worth)
        self.vector_offsets = []
        total = p_numel
        for slot in self.vectors:
            self.vector_offsets.append(total)
            total += slot.end - slot.offset
        self.p_buffer = communicator.empty(total)
        self.q_buffer = communicator.empty(q_numel)
        self.matrices = []
        p_offset = q_offset = 0
        for slot, n, m, r in worth:
            generator = torch.Generator().manual_seed(scheme.seed ^ zlib.crc32(slot.name.encode()))
            first_q = torch.randn(m, r, generator=generator).to(flat.device)
            matrix = Matrix(
                slot,
                self.error[slot.offset : slot.end].view(n, m),
                self.p_buffer[p_offset : p_offset + n * r].view(n, r),
                self.q_buffer[q_offset : q_offset + m * r].view(m, r),
                first_q,
            )
            matrix.q.copy_(first_q)
            self.matrices.append(matrix)
            p_offset, q_offset = p_offset + n * r, q_offset + m * r

    def tensors(self) -> dict[str, TensorsByName]:
        """Error and Q of the matrices; see BucketState.tensors."""
        return {
            "error": {matrix.slot.name: matrix.m.view(-1) for matrix in self.matrices},
            "q": {matrix.slot.name: matrix.q for matrix in self.matrices},
        }

    def reset(self) -> None:
        """See BucketState.reset."""
        super().reset()
        for matrix in self.matrices:
            matrix.q.copy_(matrix.first_q)


class PowerSGDCompressor(Compressor[PowerSGDState]):
    """One step of subspace iteration per step of training, shared by all ranks.

    Every rank computes the basis and the product from the same bytes, so results are the same bits
    where the ranks run the same build of torch on the same kind of processor with as many threads.
    """

    scheme: PowerSGD

    def __init__(
        self, scheme: PowerSGD, communicator: Communicator, names: Collection[str] | None
    ) -> None:
        """See Compressor."""
        super().__init__(scheme, communicator, names)

    def prepare(
        self, flat: Tensor, *, bucket: int = 0, slots: Sequence[Slot] = ()
    ) -> PowerSGDState | None:
        """See Compressor.prepare.

        Raises:
            ValueError: no slots: they say where the matrices are.
        """
        if not slots:
            raise ValueError(f"PowerSGD: bucket {bucket} came without the slots of its matrices")
        return super().prepare(flat, bucket=bucket, slots=slots)

    def _compresses(self, step: int) -> bool:
        return step >= self.scheme.start_step

    def _new_state(self, flat: Tensor, slots: Sequence[Slot]) -> PowerSGDState | None:
        state = PowerSGDState(flat, slots, self._communicator, self.scheme)
        return state if state.matrices else None

    def _stages(self, flat: Tensor, state: PowerSGDState, background: bool) -> Stages:
        vectors = [flat[slot.offset : slot.end] for slot in state.vectors]
        for matrix in state.matrices:
            matrix.m.view(-1).add_(flat[matrix.slot.offset : matrix.slot.end])
            torch.mm(matrix.m, matrix.q, out=matrix.p)
        _tensors.pack(vectors, state.p_buffer, state.vector_offsets)
        yield self._communicator.all_reduce(state.p_buffer, "mean", background=background)
        _tensors.unpack(state.p_buffer, state.vector_offsets, vectors)
        bases = []
        for matrix in state.matrices:
            basis, finite = _basis(matrix.p)
            torch.mm(matrix.m.t(), basis, out=matrix.q)
            bases.append((basis, finite))
        yield self._communicator.all_reduce(state.q_buffer, "mean", background=background)
        for matrix, (basis, finite) in zip(state.matrices, bases, strict=True):
            _finish(matrix, flat, basis, finite & matrix.q.isfinite().all())


def _sizes(slot: Slot, rank: int) -> tuple[int, int, int]:
    """Rows, columns, and the rank of the factors."""
    n = slot.shape[0] if slot.shape else 1
    m = (slot.end - slot.offset) // max(n, 1)
    return n, m, min(rank, n, m)


def _basis(p: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal columns that span P's, and whether P is finite. Nothing synchronises.

    A column that is zero or depends on the others gets some direction of its own: unlike
    Gram-Schmidt's zero it lets a later step find what the gradient holds there.
    """
    finite = p.isfinite().all()
    return torch.linalg.qr(p.masked_fill(~finite, 0))[0].contiguous(), finite


def _finish(matrix: Matrix, flat: Tensor, basis: Tensor, finite: Tensor) -> None:
    """Writes the result and what is left of M; with inf or NaN: NaN, no error, the first Q."""
    slot = matrix.slot
    part = flat[slot.offset : slot.end].view(matrix.m.shape)
    factor = matrix.q.masked_fill(~finite, torch.nan).t()
    if part.dtype == torch.float32:
        torch.mm(basis, factor, out=part)
    else:
        part.copy_(torch.mm(basis, factor))
    matrix.m.sub_(part).nan_to_num_(0, 0, 0)
    matrix.q.copy_(torch.where(finite, matrix.q, matrix.first_q))
