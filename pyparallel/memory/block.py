"""A block of a pool, as its holder sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyparallel.memory import dlpack

if TYPE_CHECKING:
    from pyparallel.memory.pool import MemoryPool


@dataclass(eq=False, slots=True)
class Block:
    """Memory of a pool, until it is freed. torch.from_dlpack(block) views its bytes.

    Attributes:
        ptr: first address, a multiple of 512.
        num_bytes: bytes asked for.
        stream: handle of the stream in whose order it is used, and freed.
        pool: that it is from.
        right_to_free: an element that one thread takes out to free the block; lists hand each of
            theirs to one thread, with and without a GIL.
    """

    ptr: int
    num_bytes: int
    stream: int
    pool: MemoryPool = field(repr=False)
    right_to_free: list[None] = field(repr=False)

    @property
    def freed(self) -> bool:
        """Whether it was, or just is, given back; its address may then be another block's."""
        return not self.right_to_free

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """The bytes as a DLPack capsule; the block cannot be freed before its consumer drops it.

        Nothing synchronises: work of the consumer's stream comes after the work that is in the
        block's stream now, and free() waits for it.

        Args:
            stream: the consumer's, as the array API standard numbers CUDA's; -1: it cares itself.
            max_version: of DLPack that the consumer knows.
            dl_device: where it wants the data; only where they are.
            copy: True is refused.

        Raises:
            ValueError: the block was freed.
            BufferError: another device, or a copy.
        """
        return dlpack.export(
            self, stream=stream, max_version=max_version, dl_device=dl_device, copy=copy
        )

    def __dlpack_device__(self) -> tuple[int, int]:
        """The device's type and index, as DLPack numbers them."""
        return dlpack.device_of(self)
