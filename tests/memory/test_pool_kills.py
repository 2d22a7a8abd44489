"""Processes with pools of shared memory are killed at any moment: nothing stays behind."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import select
import signal
import time
from collections.abc import Callable

from pyparallel.memory import MemoryPool

DEADLINE = 60.0  # seconds


def fork(work: Callable[[int], None]) -> tuple[int, int]:
    """A child that works with the writing end of a pipe; its process and the reading end."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        status = 1
        try:
            os.close(reader)
            work(writer)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    return process, reader


def read(reader: int, num_bytes: int) -> bytes:
    """That many bytes; fewer if the writer is gone."""
    result, end = b"", time.monotonic() + DEADLINE
    while len(result) < num_bytes:
        assert select.select([reader], [], [], max(end - time.monotonic(), 0))[0], "nothing came"
        part = os.read(reader, num_bytes - len(result))
        if not part:
            break
        result += part
    return result


def churn(writer: int) -> None:
    """Allocates, checks and frees, and says so, until nobody listens."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    draw = random.Random(os.getpid())
    pool = MemoryPool("shared", limit=32 << 20)
    live = []
    for step in range(1 << 30):
        block = pool.allocate(draw.randrange(1 << draw.randrange(22)))
        ctypes.memset(block.ptr, step % 256, block.num_bytes)
        live.append((block, step % 256))
        if len(live) > 8:
            block, mark = live.pop(draw.randrange(len(live)))
            assert ctypes.string_at(block.ptr, block.num_bytes) == bytes([mark]) * block.num_bytes
            pool.free(block)
        if step % 16 == 0:
            pool.trim()
            os.write(writer, b".")


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def test_the_killed_leave_nothing_and_the_others_go_on(seed: int) -> None:
    draw = random.Random(seed)
    descriptors, names = set(os.listdir("/proc/self/fd")), set(os.listdir("/dev/shm"))
    children = [fork(churn) for _ in range(3)]
    try:
        for _ in range(6):
            index = draw.randrange(3)
            process, reader = children[index]
            read(reader, draw.randrange(1, 5))  # it is somewhere in its work
            kill(process)
            os.close(reader)
            children[index] = fork(churn)
            for other, (_, reader) in enumerate(children):
                assert other == index or read(reader, 8) == b"." * 8, f"child {other} has ended"
    finally:
        for process, reader in children:
            kill(process)
            os.close(reader)
    assert set(os.listdir("/proc/self/fd")) == descriptors
    assert set(os.listdir("/dev/shm")) <= names


def test_shared_memory_outlives_its_killed_owner_for_who_maps_it() -> None:
    def own(writer: int) -> None:
        pool = MemoryPool("shared")
        pool.allocate(3 << 20)  # the block does not begin where the memory does
        block = pool.allocate(100_000)
        ctypes.memset(block.ptr, 7, block.num_bytes)
        descriptor, offset = pool.locate(block) or (-1, -1)
        os.write(writer, f"{descriptor:8}{offset:16}".encode())
        signal.pause()

    process, reader = fork(own)
    try:
        place = read(reader, 24)
        descriptor, offset = int(place[:8]), int(place[8:])
        file = os.open(f"/proc/{process}/fd/{descriptor}", os.O_RDWR)
        begin = offset // mmap.PAGESIZE * mmap.PAGESIZE
        mapped = mmap.mmap(file, offset - begin + 100_000, offset=begin)
        os.close(file)
    finally:
        kill(process)
        os.close(reader)
    assert mapped[offset - begin :] == bytes([7]) * 100_000
    mapped.close()
