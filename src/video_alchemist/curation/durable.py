"""Files that are either whole or not there, whatever is killed when: temporary name -> fsync -> rename -> fsync."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


def sync(path: Path) -> None:
    """Waits until a file's bytes, or a folder's names, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Writes a small file whole or not at all; one writer at a time."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    _settle(temporary, path)


def place(source: Path, target: Path) -> None:
    """Makes `target` the same file as `source`: a second name where the file system has such, else a copy."""
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)  # of a run that was killed here
    try:
        os.link(source, temporary)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        shutil.copyfile(source, temporary)
    _settle(temporary, target)


def _settle(temporary: Path, path: Path) -> None:
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a file's lock, which the kernel gives back however the process ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"{str(path.parent.parent)!r} is being worked on by another run; wait for it") from error
        yield
