"""The right to write in a directory: one process has it at a time, and loses it when it ends, however it ends.

It is the operating system's lock on the file .lock there, which no kill leaves behind; the file's text only says who has it.
"""

import errno
import json
import os
import shutil
import socket
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rlhf_lib.args import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NAME = ".lock"
BEYOND = 1 << 30  # the byte that is locked on Windows, which lets nobody read a locked one
HELD: "weakref.WeakValueDictionary[str, Lock]" = weakref.WeakValueDictionary()
"""The locks of this process, by the directory's real path."""


class Taken(Exception):
    """Someone else has the lock; the message says who."""


class Lock:
    """A directory's lock, held until `release`, until nothing refers to it any more, or until the process ends."""

    def __init__(self, file: Path, descriptor: int):
        self.descriptor, self.thread = descriptor, threading.current_thread()
        self.release = weakref.finalize(self, let_go, file, descriptor)
        told = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.truncate(descriptor, 0)
        os.write(descriptor, json.dumps(told).encode())

    @property
    def is_held(self) -> bool:
        """Whether it has not been released."""
        return self.release.alive


def let_go(file: Path, descriptor: int) -> None:
    """Remove a lock's file, while it is locked so that nobody locks one that is about to go, and unlock it."""
    with suppress(OSError):
        file.unlink()
    os.close(descriptor)


def forget_in_child() -> None:
    """A forked child is another process: it holds no lock, and must not keep its parent's alive."""
    for lock in list(HELD.values()):
        if lock.release.detach():
            os.close(lock.descriptor)
    HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_in_child)


def is_free(descriptor: int) -> bool:
    """Lock an open file, unless another process has; True also where the file system has no locks, which is said."""
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            os.lseek(descriptor, BEYOND, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        print(
            f"rlhf: the file system has no locks ({error.strerror}), so nothing keeps a second process from writing there",
            file=sys.stderr,
        )
    return True


def who_holds(descriptor: int) -> str:
    """The process that an open lock file names."""
    try:
        told = json.loads(os.read(descriptor, 1000))
        return f"process {told['pid']} on {told['host']} (since {told['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def take(directory: Path) -> Lock:
    """The lock of a directory, which this thread may have already.

    Raises:
        Taken: another process, or another thread of this one, has it.
    """
    held = HELD.get(os.path.realpath(directory))
    if held is not None and held.is_held:
        if held.thread is not threading.current_thread() and held.thread.is_alive():
            raise Taken(f"another thread of this process ({os.getpid()})")
        return held
    file = directory / NAME
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        if not is_free(descriptor):
            who = who_holds(descriptor)
            os.close(descriptor)
            raise Taken(who)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(file)):
                break
        os.close(descriptor)  # of a lock that was released and removed in between
    lock = HELD[os.path.realpath(directory)] = Lock(file, descriptor)
    return lock


def claim(directory: str | os.PathLike, option: str = "output_dir") -> Lock:
    """Make a directory if it is missing, lock it, and remove what a writer that was killed left half done.

    Raises:
        InputError: it cannot be written, or another process writes there.
    """
    path, remedy = Path(directory), f"choose another --{option.replace('_', '-')}"
    name = f"{option}={str(directory)!r}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".write-test-{os.getpid()}.tmp"
        probe.write_text("")
        probe.unlink(missing_ok=True)
        lock = take(path)
    except Taken as taken:
        raise InputError(f"{name} is being written by {taken}; wait until that has ended, or {remedy}") from None
    except OSError as error:
        raise InputError(f"{name} cannot be written ({error.strerror}); {remedy}") from None
    for left in (*path.glob(".*.tmp"), *path.glob("*/.new.tmp")):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
    return lock


@contextmanager
def writing_in(directory: str | os.PathLike, option: str = "output_dir") -> Iterator[Path]:
    """A directory that this process alone writes inside the block; see `claim` for what may be wrong with it."""
    lock = claim(directory, option)
    try:
        yield Path(directory)
    finally:
        lock.release()
