"""How a run writes: every byte goes through ``write``, every file is whole or is not there."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from evokern.errors import StorageError

Content = bytes | memoryview

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")

_FULL = (
    "what was saved before is intact; make room and give the same command again to go on from there"
)
_NO_RIGHT = "no right to write there; choose another folder"
_MENDS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _FULL,
    errno.EACCES: _NO_RIGHT,
    errno.EPERM: _NO_RIGHT,
    errno.EROFS: _NO_RIGHT,
    errno.EEXIST: "it is a file; choose another folder",
    errno.ENOTDIR: "a part of its path is a file; choose another folder",
    errno.EISDIR: "it is a folder; choose another name",
    errno.ENOENT: "create the folder first",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def write(file: BinaryIO, content: Content) -> None:
    """Writes all of ``content`` to an open file. The tests kill the process around this call."""
    left = memoryview(content)
    while left:  # an unbuffered file on a full disk takes a part and says so only here
        left = left[file.write(left) :]


def replace_file(path: Path, content: Content | Iterable[Content]) -> None:
    """Writes a file under a temporary name, fsyncs, renames: a crash leaves the old or the new.

    ``content`` may come in pieces. Raises StorageError; the old file is then still there.
    """
    pieces = [content] if isinstance(content, bytes | memoryview) else content
    # Of one writer: others may be writing the same file.
    temporary = path.with_name(f".{path.name}.{token_hex(4)}.tmp")
    try:
        try:
            with temporary.open("wb") as file:
                for piece in pieces:
                    write(file, piece)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise storage_error(path, error) from error


def remove(paths: Iterable[Path]) -> None:
    """Deletes files. Raises StorageError."""
    for path in paths:
        try:
            path.unlink()
        except OSError as error:
            raise storage_error(path, error) from error


def unfinished(folder: Path) -> list[Path]:
    """The temporary files that killed processes left in a folder."""
    names = (path for path in folder.glob(".*.tmp") if _TEMPORARY.fullmatch(path.name))
    return [path for path in names if path.is_file()]


def open_to_append(path: Path) -> BinaryIO:
    """An unbuffered file. Raises StorageError."""
    try:
        return path.open("ab", buffering=0)
    except OSError as error:
        raise storage_error(path, error) from error


def append(file: BinaryIO, path: Path, content: bytes) -> None:
    """Appends to an unbuffered file. Raises StorageError."""
    try:
        write(file, content)
    except OSError as error:
        raise storage_error(path, error) from error


def sync(file: BinaryIO, path: Path) -> None:
    """Returns when all that was written is on the disk. Raises StorageError."""
    try:
        os.fsync(file.fileno())
    except OSError as error:
        raise storage_error(path, error) from error


def make_folder(path: Path) -> None:
    """Creates a folder and its parents, unless they are there. Raises StorageError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(path, error) from error


def storage_error(path: Path, error: OSError) -> StorageError:
    """The error of a write that failed, with the mend."""
    reason = error.strerror or str(error)
    mend = _MENDS.get(error.errno or 0, "choose another folder")
    return StorageError(f"{path}: cannot be written: {reason}; {mend}")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder for this process. Raises StorageError when another one holds it.

    The lock goes with the process, however that ends. Temporary files of killed processes are
    removed.
    """
    path = folder / ".lock"
    with open_to_append(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError(
                f"{folder}: another process is running here; wait for it or choose another folder"
            ) from None
        except OSError as error:  # a file system without locks
            raise storage_error(path, error) from error
        remove(unfinished(folder))
        yield


def is_locked(folder: Path) -> bool:
    """Whether another process holds the folder."""
    try:
        with (folder / ".lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # nobody ever held it, or a file system without locks
        return False
    return False


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
