"""What the machine has: cores, memory and GPUs, as far as this process may use them."""

import os
import shutil
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")


def usable_cores() -> int:
    """Physical cores that this process may run on; at least 1."""
    cores = {_siblings(cpu) for cpu in os.sched_getaffinity(0)}
    return max(1, len(cores))


def _siblings(cpu: int) -> str:
    """Names the physical core of a CPU by the CPUs that share it, such as "0,8"."""
    path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return path.read_text()
    except OSError:
        return str(cpu)


def gpus() -> list[str]:
    """Names of the GPUs that torch can use; empty on a machine without a driver."""
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def memory_bytes() -> tuple[int, int]:
    """Memory of the machine in bytes: all of it, and what is free now."""
    page = os.sysconf("SC_PAGE_SIZE")
    return os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page


def shared_memory_bytes() -> tuple[int, int]:
    """Bytes of shared memory, which the shm communicator lives in: all of it, and what is free."""
    usage = shutil.disk_usage(SHARED_MEMORY)
    return usage.total, usage.free
