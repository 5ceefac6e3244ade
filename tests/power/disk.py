"""Where the node keeps its data, and how its power is cut."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path

# `_IOR('X', 125, __u32)` and its flag, from fs/ext4/ext4.h: the filesystem stops at once, and its journal is not
# written out first.
EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2


class Folder:
    """A folder of the machine's own filesystem. It survives the node's death whole."""

    def __init__(self, work: Path) -> None:
        self.data = work / "data"

    def cut(self) -> None:
        """Nothing: SIGKILL is all that happens."""

    def restore(self) -> None:
        """Nothing: the machine kept running."""

    def close(self) -> None:
        """Nothing is mounted."""


class Image:
    """An ext4 filesystem of its own in a file, whose power can be cut.

    The cut is that of a disk which keeps all that it was given: what the node wrote and did not sync is gone, as is
    what the filesystem had not put into its journal. A disk that loses what it acknowledged is not imitated.
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
        """From here on nothing reaches the disk. Returns once that is so."""
        folder = os.open(self.mount, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(folder)

    def restore(self) -> None:
        """Power is back. Nobody may use the folder while this runs."""
        self._unmount()
        self._mount()

    def close(self) -> None:
        if self.mount.is_mount():
            self._unmount()

    def free(self) -> int:
        """Bytes that are free for programs which are not root's, as the node counts them."""
        disk = os.statvfs(self.mount)
        return disk.f_bavail * disk.f_frsize

    def fill(self, leave: int) -> None:
        """Puts a file beside the data that leaves so many bytes free. Root's reserve is used up first."""
        size = self.free() - leave
        with (self.mount / "ballast").open("ab") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, size)

    def brim(self) -> None:
        """Fills the disk until not even root can write another byte."""
        with (self.mount / "brim").open("ab", buffering=0) as ballast:
            for size in (1 << 20, 1 << 12):
                try:
                    while True:
                        ballast.write(bytes(size))
                except OSError:
                    continue

    def relieve(self) -> None:
        """Takes away what `fill` and `brim` put there."""
        for name in ("ballast", "brim"):
            (self.mount / name).unlink(missing_ok=True)

    def _mount(self) -> None:
        run("mount", "-o", "loop", self.file, self.mount)

    def _unmount(self) -> None:
        for patience in range(50, -1, -1):
            try:
                return run("umount", self.mount)
            except RuntimeError:
                if not patience:
                    raise
                time.sleep(0.1)


def run(*command: object) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")


def copy(data: Path, to: Path) -> None:
    """Keeps a folder as it is now, for whoever must find out what happened to it."""
    shutil.rmtree(to, ignore_errors=True)
    if data.exists():
        shutil.copytree(data, to)
