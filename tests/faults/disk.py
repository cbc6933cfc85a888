"""A disk that is full: a small tmpfs where mounting is allowed, else a limit on the size of files."""

import contextlib
import os
import pathlib
import resource
import subprocess

_ROOM = 16 << 20


class SmallDisk:
    """A folder on a disk of 16 MB of its own."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self._filler = self.folder / "filler"

    @classmethod
    @contextlib.contextmanager
    def mounted(cls, folder):
        """Mounts it at ``folder``, which is made.

        Raises:
            OSError: mounting is refused.
        """
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={_ROOM}", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"{folder}: no tmpfs: {done.stderr.strip()}")
        try:
            yield cls(folder)
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)

    def fill(self, leave: int) -> None:
        """Takes all room but ``leave`` bytes."""
        room = os.statvfs(self.folder)
        size = max(room.f_bavail * room.f_bsize - leave, 0)
        with self._filler.open("wb") as f:
            os.posix_fallocate(f.fileno(), 0, max(size, 1))

    def free(self) -> None:
        """Gives it back."""
        self._filler.unlink()


def limit_files(job, size: int) -> None:
    """From now on no process of a job can write past byte ``size`` of any file (error EFBIG)."""
    for process in job.processes:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, size))
