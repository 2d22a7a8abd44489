from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

DTYPES: dict[str, int]
MOVED_DTYPES: dict[str, int]

def features() -> dict[str, Any]: ...
def available_memory() -> int: ...
def is_shared(data: int) -> bool: ...

class AdamHyper:
    def __init__(
        self,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        decoupled: bool,
        amsgrad: bool,
    ) -> None: ...

class SgdHyper:
    def __init__(
        self,
        lr: float,
        momentum: float,
        dampening: float,
        weight_decay: float,
        nesterov: bool,
    ) -> None: ...

class AdagradHyper:
    def __init__(
        self,
        lr: float,
        lr_decay: float,
        weight_decay: float,
        eps: float,
    ) -> None: ...

class RmspropHyper:
    def __init__(
        self,
        lr: float,
        alpha: float,
        eps: float,
        weight_decay: float,
        momentum: float,
        centered: bool,
    ) -> None: ...

class LionHyper:
    def __init__(
        self,
        lr: float,
        beta1: float,
        beta2: float,
        weight_decay: float,
    ) -> None: ...

class LambHyper:
    def __init__(
        self,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        trust_clip: float,
        bias_correction: bool,
        adapt: bool,
    ) -> None: ...

class LarsHyper:
    def __init__(
        self,
        lr: float,
        momentum: float,
        dampening: float,
        weight_decay: float,
        trust_coefficient: float,
        eps: float,
        nesterov: bool,
        adapt: bool,
    ) -> None: ...

class NovogradHyper:
    def __init__(
        self,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        grad_averaging: bool,
    ) -> None: ...

class AdafactorHyper:
    def __init__(
        self, lr: float, eps1: float, eps2: float, d: float, weight_decay: float
    ) -> None: ...

class MuonHyper:
    def __init__(
        self, lr: float, momentum: float, weight_decay: float, nesterov: bool, apply: bool
    ) -> None: ...

Hyper = (
    AdamHyper
    | SgdHyper
    | AdagradHyper
    | RmspropHyper
    | LionHyper
    | LambHyper
    | LarsHyper
    | NovogradHyper
    | AdafactorHyper
    | MuonHyper
)

class Extra:
    none: ClassVar[Extra]
    master: ClassVar[Extra]
    remainder: ClassVar[Extra]
    stochastic: ClassVar[Extra]

class StepControl:
    def __init__(
        self,
        grad_scale: int,
        found_inf: int,
        clip: int,
        lr: int,
        maximize: bool,
        seed: int,
        advance: bool = True,
        workspace: int = 0,
    ) -> None: ...

class StepTable:
    def __init__(
        self,
        params: Sequence[int],
        grads: Sequence[int],
        states: Sequence[Sequence[int]],
        extras: Sequence[int],
        steps: Sequence[int],
        factors: Sequence[int],
        numels: Sequence[int],
        param_dtype: int,
        grad_dtype: int,
        state_dtype: int,
        extra: Extra,
    ) -> None: ...
    def set_grads(self, grads: Sequence[int]) -> None: ...
    def set_states(self, k: int, states: Sequence[int]) -> None: ...
    def step(
        self, hyper: Hyper, control: StepControl, device: int, stream: int, threads: int
    ) -> None: ...

def moment_bytes(numel: int) -> int: ...
def measure_workspace(count: int) -> int: ...
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

class Accumulation:
    sum: ClassVar[Accumulation]
    product: ClassVar[Accumulation]
    max: ClassVar[Accumulation]
    min: ClassVar[Accumulation]
    __members__: ClassVar[dict[str, Accumulation]]

def accumulate(
    output: int,
    sources: Sequence[int],
    factors: Sequence[float],
    count: int,
    dtype: int,
    op: Accumulation,
    scale: float,
    squares: int,
    workspace: int,
    device: int,
    stream: int,
    threads: int,
) -> None: ...
def accumulate_workspace(count: int, device: int) -> int: ...
def encode_blocks(
    values: int,
    dtype: int,
    error: int,
    codes: int,
    scales: int,
    count: int,
    device: int,
    stream: int,
    threads: int,
) -> None: ...
def decode_blocks(
    codes: int,
    codes_stride: int,
    scales: int,
    scales_stride: int,
    sources: int,
    output: int,
    dtype: int,
    count: int,
    factor: float,
    add: bool,
    device: int,
    stream: int,
    threads: int,
) -> None: ...

class Work:
    @property
    def completed(self) -> bool: ...
    @property
    def succeeded(self) -> bool: ...
    @property
    def failed(self) -> bool: ...
    @property
    def source(self) -> int: ...
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

class Peers:
    def others_gone(self) -> bool: ...

class Kind:
    all_reduce: ClassVar[Kind]
    reduce: ClassVar[Kind]
    reduce_scatter: ClassVar[Kind]
    all_gather: ClassVar[Kind]
    broadcast: ClassVar[Kind]
    gather: ClassVar[Kind]
    scatter: ClassVar[Kind]
    __members__: ClassVar[dict[str, Kind]]

class Reduction:
    sum: ClassVar[Reduction]
    mean: ClassVar[Reduction]
    max: ClassVar[Reduction]
    min: ClassVar[Reduction]
    product: ClassVar[Reduction]
    premultiplied: ClassVar[Reduction]
    __members__: ClassVar[dict[str, Reduction]]

class ShmCommunicator:
    @staticmethod
    def create_control(world_size: int) -> Segment: ...
    def __init__(
        self, control: Segment, rank: int, processes: list[int], timeout_seconds: float
    ) -> None: ...
    def join(self) -> None: ...
    def go_before(self, other: ShmCommunicator) -> None: ...
    def close(self) -> None: ...
    def wait(self, work: Work) -> None: ...
    def check_process(self) -> None: ...
    @property
    def peers(self) -> Peers: ...
    def combine(
        self,
        kind: Kind,
        output: int,
        input: int,
        count: int,
        dtype: int,
        root: int,
        reduction: Reduction,
        factor: float,
        ring: bool,
        squares: int,
        background: bool,
        /,
    ) -> Work: ...
    def move(
        self,
        kind: Kind,
        output: int,
        input: int,
        count: int,
        dtype: int,
        root: int,
        background: bool,
        /,
    ) -> Work: ...
    def all_to_all(
        self,
        output: int,
        input: int,
        output_sizes: list[int],
        input_sizes: list[int],
        dtype: int,
        background: bool,
        /,
    ) -> Work: ...
    @property
    def timeout_seconds(self) -> float: ...
    def test(self, work: Work) -> bool: ...
    def withdraw(self, work: Work) -> bool: ...
    def abort(self, cause: str) -> None: ...
    def set_on_failure(
        self, on_failure: Callable[[str, list[dict[str, Any]], str], object] | None
    ) -> None: ...
    def flight_record(self) -> list[dict[str, Any]]: ...
    def who_waits(self) -> str: ...
    def send(self, tensor: int, count: int, dtype: int, destination: int, tag: int, /) -> Work: ...
    def recv(self, tensor: int, count: int, dtype: int, source: int, tag: int, /) -> Work: ...
    def barrier(self, background: bool, /) -> Work: ...

class NcclWork:  # of CUDA builds only, like NcclCommunicator
    completed: bool
    failed: bool
    started_ns: int
    ended_ns: int
    description: str

    def wait(self, stream: int) -> None: ...

class NcclCommunicator:
    failed: bool
    rank: int
    world_size: int

    def __init__(
        self,
        override: str,
        candidates: Sequence[str],
        id: bytes,
        rank: int,
        world_size: int,
        device: int,
        timeout_seconds: float,
        names: Sequence[int],
    ) -> None: ...
    @staticmethod
    def create_id(override: str, candidates: Sequence[str]) -> bytes: ...
    def join(self) -> None: ...
    def split(self, color: int, key: int) -> NcclCommunicator | None: ...
    def peer_failed(self, peer: int, operation: str, cause: str, lost: bool) -> None: ...
    def peer_left(self, peer: int) -> None: ...
    def doing(self) -> str: ...
    def finish(self) -> None: ...
    def close(self) -> None: ...
    def all_reduce(
        self, tensor: int, count: int, dtype: int, op: str, factor: float | None, stream: int
    ) -> NcclWork: ...
    def reduce(
        self,
        tensor: int,
        count: int,
        dtype: int,
        op: str,
        factor: float | None,
        root: int,
        stream: int,
    ) -> NcclWork: ...
    def reduce_scatter(
        self,
        output: int,
        input: int,
        count: int,
        dtype: int,
        op: str,
        factor: float | None,
        stream: int,
    ) -> NcclWork: ...
    def own_all_reduce(
        self,
        ring: bool,
        tensor: int,
        count: int,
        dtype: int,
        op: str,
        factor: float | None,
        squares: int,
        stream: int,
    ) -> NcclWork: ...
    def own_reduce_scatter(
        self,
        ring: bool,
        output: int,
        input: int,
        count: int,
        dtype: int,
        op: str,
        factor: float | None,
        squares: int,
        stream: int,
    ) -> NcclWork: ...
    def all_gather(self, output: int, input: int, num_bytes: int, stream: int) -> NcclWork: ...
    def broadcast(self, tensor: int, num_bytes: int, root: int, stream: int) -> NcclWork: ...
    def gather(
        self, output: int, input: int, num_bytes: int, root: int, stream: int
    ) -> NcclWork: ...
    def scatter(
        self, output: int, input: int, num_bytes: int, root: int, stream: int
    ) -> NcclWork: ...
    def all_to_all(
        self,
        output: int,
        input: int,
        output_bytes: Sequence[int],
        input_bytes: Sequence[int],
        stream: int,
    ) -> NcclWork: ...
    def send(self, tensor: int, num_bytes: int, peer: int, stream: int) -> NcclWork: ...
    def recv(self, tensor: int, num_bytes: int, peer: int, stream: int) -> NcclWork: ...
    def barrier(self, stream: int) -> NcclWork: ...

class Pool:
    def __init__(self, upstream: str, device: int, limit: int | None, for_graph: bool) -> None: ...
    def allocate(self, num_bytes: int, stream: int) -> int: ...
    def use(self, data: int, stream: int) -> None: ...
    def share(self, data: int, stream: int) -> None: ...
    def num_bytes(self, data: int) -> int: ...
    def free(self, data: int) -> None: ...
    def end_stream(self, stream: int) -> None: ...
    def locate(self, data: int) -> tuple[int, int] | None: ...
    def on_failure(self, function: Callable[[int], bool] | None) -> None: ...
    def trim(self) -> int: ...
    def blocks(self) -> list[tuple[int, int, list[tuple[int, int, int, int, int, int, str]]]]: ...
    def observed(self) -> int: ...
    def observe(self, observer: Recorder) -> None: ...
    def unobserve(self, observer: Recorder) -> None: ...
    def observer(self) -> Recorder | None: ...
    def last_observer(self) -> Recorder | None: ...
    def statistics(self) -> dict[str, Any]: ...
    def stream_statistics(self) -> list[dict[str, int]]: ...
    def plan_steps(self, most_divergences: int) -> PlannedPlacement: ...

class PlannedPlacement:
    def begin_step(self) -> None: ...
    def end_step(self) -> None: ...
    def statistics(self) -> dict[str, Any]: ...

PLAN_BUDGET: int

def plan_offsets(
    lifetimes: list[tuple[int, int, int]], period: int, budget: int
) -> tuple[list[int], int, int]: ...

class OwnedBlock:
    def __init__(self, pool: Pool, num_bytes: int, stream: int) -> None: ...
    @property
    def data(self) -> int: ...

def repeat_allocations(pool: Pool, num_bytes: int, pairs: int, threads: int) -> None: ...
def repeat_function_allocations(
    of_torch: bool, allocate: int, free: int, num_bytes: int, pairs: int, threads: int
) -> None: ...
def default_pool(device: int) -> Pool: ...
def set_default_pool(device: int, pool: Pool) -> None: ...
def torch_hooks() -> dict[str, int]: ...
def torch_segment_functions(pool: Pool) -> tuple[int, int]: ...
def numpy_handler(pool: Pool) -> Any: ...
def set_numpy_handler(numpy_functions: Any, handler: Any) -> Any: ...
def dlpack(
    pool: Pool, data: int, num_bytes: int, device: int, versioned: bool, owning: bool
) -> Any: ...

class Recorder:
    def __init__(self, max_events: int, frames: int, own: str) -> None: ...
    @property
    def capacity(self) -> int: ...
    def clear(self) -> None: ...
    def history(self) -> tuple[list[tuple[str, int, int, int, int, int, int]], int]: ...

def frames_of(site: int) -> list[tuple[str, int, str]]: ...
def replay_policies() -> list[str]: ...

class Replay:
    def __init__(self, policy: str, device: int | None) -> None: ...
    def run(
        self,
        block: npt.NDArray[np.int64],
        num_bytes: npt.NDArray[np.int64],
        stream: npt.NDArray[np.uint64],
    ) -> bool: ...
    @property
    def peak_requested(self) -> int: ...
    @property
    def peak_reserved(self) -> int: ...
    @property
    def growths(self) -> int: ...
    @property
    def nanoseconds(self) -> float: ...
