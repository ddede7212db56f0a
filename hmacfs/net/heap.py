"""Memory: what sockets are read into, and what modules take."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


def keep_on_heap(size_bytes: int) -> None:
    """Have malloc(3) take blocks of less than *size_bytes* from memory that the process has already.

    A read asks for as much as may come, and gives back at once what hasn't. Blocks from 128 KiB on, glibc maps and
    unmaps one by one, which takes longer than to read 64 KiB into one. When such a block is freed, that threshold rises
    to its size, and what is kept at the end of the heap to twice as much: see M_MMAP_THRESHOLD in mallopt(3). Another libc
    may do as it likes.

    :param size_bytes: glibc follows up to 32 MiB.
    """
    bytes(size_bytes)


@contextmanager
def loading() -> Iterator[None]:
    """Don't look for garbage while modules are imported, nor among what they have made afterwards.

    What modules make stays for as long as the process. To look for garbage in all of it, again and again while it grows,
    takes a fifth of the time until a process serves.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
