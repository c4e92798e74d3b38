"""A lock that one program holds until it ends, and that the system frees even after a kill.

Linux and macOS lock with `fcntl`, Windows with `msvcrt`. Where a disk cannot lock (some network
folders) nothing is locked: two programs can then write the same files, as without this file.

Read before: nothing. Left out: waiting for a lock, locks across machines.
"""

import errno
import os
import sys

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)  # somebody else has it


class Locked(Exception):
    """Another program, or another part of this one, holds the lock."""


def lock_file(path):
    """Lock the file at `path`, which is made if need be -> the open file: closing it unlocks.

    Raises: Locked if it is held already, OSError if the file cannot be opened.
    """
    file = open(path, "a+")  # noqa: SIM115 (open means locked)
    try:
        if sys.platform == "win32":
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            file.close()
            raise Locked(os.fspath(path)) from error
    return file
