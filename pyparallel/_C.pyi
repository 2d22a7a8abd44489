from collections.abc import Sequence
from typing import Any, ClassVar

DTYPES: dict[str, int]

def features() -> dict[str, Any]: ...
def available_memory() -> int: ...

class AdamTable:
    def __init__(
        self,
        params: Sequence[int],
        grads: Sequence[int],
        exp_avgs: Sequence[int],
        exp_avg_sqs: Sequence[int],
        max_exp_avg_sqs: Sequence[int],
        masters: Sequence[int],
        steps: Sequence[int],
        numels: Sequence[int],
        param_dtype: int,
        grad_dtype: int,
    ) -> None: ...
    def set_grads(self, grads: Sequence[int]) -> None: ...
    def step(
        self,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        decoupled: bool,
        maximize: bool,
        grad_scale: int,
        found_inf: int,
        device: int,
        stream: int,
        threads: int,
    ) -> None: ...

def pack(
    tensors: Sequence[int],
    offsets: Sequence[int],
    numels: Sequence[int],
    tensor_dtype: int,
    flat: int,
    flat_dtype: int,
    scale: float,
    back: bool,
    device: int,
    stream: int,
    threads: int,
) -> None: ...
def sum_of_squares(
    tensors: Sequence[int],
    numels: Sequence[int],
    dtype: int,
    result: int,
    workspace: int,
    device: int,
    stream: int,
    threads: int,
) -> None: ...
def sum_of_squares_workspace(tensors: Sequence[int], numels: Sequence[int], device: int) -> int: ...

class Work:
    @property
    def completed(self) -> bool: ...
    @property
    def failed(self) -> bool: ...
    @property
    def submitted_ns(self) -> int: ...
    @property
    def started_ns(self) -> int: ...
    @property
    def ended_ns(self) -> int: ...
    @property
    def waited_ns(self) -> int: ...

class Segment:
    @staticmethod
    def open(pid: int, fd: int) -> Segment: ...
    @property
    def fd(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...

class SharedBuffer:
    def __buffer__(self, flags: int) -> memoryview: ...

class Reduction:
    sum: ClassVar[Reduction]
    mean: ClassVar[Reduction]
    max: ClassVar[Reduction]
    min: ClassVar[Reduction]
    __members__: ClassVar[dict[str, Reduction]]

class ShmCommunicator:
    @staticmethod
    def create_control(world_size: int) -> Segment: ...
    def __init__(
        self, control: Segment, rank: int, processes: list[int], timeout_seconds: float
    ) -> None: ...
    def join(self) -> None: ...
    def close(self) -> None: ...
    def wait(self, work: Work) -> None: ...
    def allocate(self, num_bytes: int) -> SharedBuffer: ...
    def all_reduce(
        self, tensor: int, count: int, dtype: int, reduction: Reduction, background: bool, /
    ) -> Work: ...
    def broadcast(
        self, tensor: int, count: int, dtype: int, root: int, background: bool, /
    ) -> Work: ...
    def all_gather(
        self, output: int, input: int, count: int, dtype: int, background: bool, /
    ) -> Work: ...
    def reduce_scatter(
        self,
        output: int,
        input: int,
        count: int,
        dtype: int,
        reduction: Reduction,
        background: bool,
        /,
    ) -> Work: ...
    def barrier(self, background: bool, /) -> Work: ...
