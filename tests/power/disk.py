"""The disk of the node, and the cut of its power."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path

# `_IOR('X', 125, __u32)` and its flag, from fs/ext4/ext4.h: the filesystem stops at once, without writing its journal.
EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2


class Folder:
    """A folder of the machine's filesystem. A kill of the node loses no write."""

    def __init__(self, work: Path) -> None:
        self.data = work / "data"

    def cut(self) -> None:
        """Does nothing: the caller kills the node."""

    def restore(self) -> None:
        """Does nothing: the filesystem kept running."""

    def close(self) -> None:
        """Does nothing: no filesystem is mounted."""


class Image:
    """An ext4 filesystem in a file, whose power can be cut.

    The cut models a disk that keeps all acknowledged writes: writes that the node did not sync are lost, as is what the
    filesystem had not written to its journal. It does not model a disk that loses acknowledged writes.
    """

    def __init__(self, work: Path, size: int) -> None:
        self.file, self.mount = work / "disk.img", work / "mnt"
        self.data = self.mount / "data"
        self.mount.mkdir()
        with self.file.open("wb") as image:
            image.truncate(size)
        run("mkfs.ext4", "-q", "-F", self.file)
        self._mount()

    def cut(self) -> None:
        """Stops the filesystem. After the return, no write reaches the disk."""
        folder = os.open(self.mount, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(folder)

    def restore(self) -> None:
        """Mounts the filesystem again. No process may use the folder meanwhile."""
        self._unmount()
        self._mount()

    def close(self) -> None:
        if self.mount.is_mount():
            self._unmount()

    def free(self) -> int:
        """Free bytes for processes that are not root, as the node counts them."""
        disk = os.statvfs(self.mount)
        return disk.f_bavail * disk.f_frsize

    def fill(self, leave: int) -> None:
        """Fills the disk with a file until `leave` bytes are free. Uses up the reserve of root first."""
        size = self.free() - leave
        with (self.mount / "ballast").open("ab") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, size)

    def brim(self) -> None:
        """Fills the disk until root cannot write another byte."""
        with (self.mount / "brim").open("ab", buffering=0) as ballast:
            for size in (1 << 20, 1 << 12):
                try:
                    while True:
                        ballast.write(bytes(size))
                except OSError:
                    continue

    def relieve(self) -> None:
        """Deletes the files of `fill` and `brim`."""
        for name in ("ballast", "brim"):
            (self.mount / name).unlink(missing_ok=True)

    def _mount(self) -> None:
        run("mount", "-o", "loop", self.file, self.mount)

    def _unmount(self) -> None:
        for attempts_left in range(50, -1, -1):
            try:
                return run("umount", self.mount)
            except RuntimeError:
                if not attempts_left:
                    raise
                time.sleep(0.1)


def run(*command: object) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")


def copy(data: Path, to: Path) -> None:
    """Copies a folder for the analysis of a failure."""
    shutil.rmtree(to, ignore_errors=True)
    if data.exists():
        shutil.copytree(data, to)
