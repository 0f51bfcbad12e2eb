"""A piece of memory that the ranks of one machine share, with two doorbells for each rank.

One rank makes it, the others open it by its name, and once all have, the names are taken away: however a rank ends
after that, nothing stays behind, as the kernel frees what no process has open. Doorbells are POSIX semaphores, in
which memory is synchronised on every processor (POSIX.1-2017, Base Definitions 4.12); nothing here relies on the order
in which a processor makes its writes seen. That a rank is alive is told by a lock on one byte of the file, which the
kernel releases when the process ends, however it ends.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import secrets
import tempfile
from _multiprocessing import SemLock, sem_unlink  # type: ignore[import-not-found]  # typeshed has no stub
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

__all__ = ["Doorbell", "Segment"]

_SEMAPHORE = 1
"""Of `_multiprocessing.SemLock`: neither a mutex nor recursive."""
_MEMORY_FILES = Path("/dev/shm")
_NUM_BELLS = 2


class Doorbell:
    """A counting semaphore of a rank, that others ring: `ring()`, and `answer(block, timeout_s)`: whether it rang."""

    __slots__ = ("answer", "ring")

    def __init__(self, semaphore: SemLock) -> None:
        self.ring: Callable[[], None] = semaphore.release
        self.answer: Callable[..., bool] = semaphore.acquire


class Segment:
    """Shared memory of `num_ranks` ranks.

    Args:
        name: as its maker has it; None to make a new one.
        num_ranks: how many ranks open it.
        num_bytes: its size, a multiple of the page.
    Raises: OSError if there is no such segment, or no memory for a new one.
    """

    def __init__(self, name: str | None, num_ranks: int, num_bytes: int) -> None:
        making = name is None
        self.name = f"axisplit-{secrets.token_hex(8)}" if name is None else name
        self._num_ranks = num_ranks
        self._fd = os.open(self._path, os.O_RDWR | (os.O_CREAT | os.O_EXCL if making else 0), 0o600)
        try:
            if making:
                _reserve(self._fd, num_bytes)
            self.memory = mmap.mmap(self._fd, num_bytes)
            self.doorbells = [
                [self._doorbell(rank, which, making) for which in range(_NUM_BELLS)] for rank in range(num_ranks)
            ]
        except BaseException:
            os.close(self._fd)
            if making:
                self.forget_names()
            raise

    @property
    def _path(self) -> Path:
        return (_MEMORY_FILES if _MEMORY_FILES.is_dir() else Path(tempfile.gettempdir())) / self.name

    def _bell_name(self, rank: int, which: int) -> str:
        return f"/{self.name}-{rank}-{which}"

    def _doorbell(self, rank: int, which: int, making: bool) -> Doorbell:
        name = self._bell_name(rank, which)
        if making:
            return Doorbell(SemLock(_SEMAPHORE, 0, SemLock.SEM_VALUE_MAX, name, False))
        return Doorbell(SemLock._rebuild(-1, _SEMAPHORE, SemLock.SEM_VALUE_MAX, name))

    def forget_names(self) -> None:
        """Take the names away; the maker calls it once all have opened the segment. No error where they are gone."""
        self._path.unlink(missing_ok=True)
        for rank in range(self._num_ranks):
            for which in range(_NUM_BELLS):
                with suppress(FileNotFoundError):
                    sem_unlink(self._bell_name(rank, which))

    def live_as(self, rank: int) -> None:
        """Hold the lock that says that this process, which is `rank`, is alive."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, rank)

    def is_gone(self, rank: int) -> bool:
        """Whether another rank's process has ended. Asking for the own rank would release its lock."""
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, rank)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, rank)
        return True

    def close(self) -> None:
        """Give up this process's part, and with it the lock; views of the memory stay valid until they are dropped."""
        os.close(self._fd)


def _reserve(fd: int, num_bytes: int) -> None:
    """Have the memory now, as an error: a page that is missing later ends the process (SIGBUS)."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, num_bytes)
    else:
        os.ftruncate(fd, num_bytes)
