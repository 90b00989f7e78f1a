"""A file system per node, in a file: it can be filled, and frozen."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.cluster.chaos.net import PREFIX, run

MEGABYTE = 1 << 20
_SIZE = 3000 * MEGABYTE
_FILLER = "filler"


class Disk:
    """ext4 on a loop device, mounted at `place`."""

    def __init__(self, image: Path, place: Path) -> None:
        self.place = place
        self._image = image

    def mount(self) -> None:
        """Make the file system, empty."""
        self.place.mkdir(parents=True)
        with self._image.open("wb") as file:
            file.truncate(_SIZE)
        run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1", str(self._image))
        run("mount", "-o", "loop,noatime", str(self._image), str(self.place))

    def free_bytes(self) -> int:
        """Return how much can be written yet."""
        found = os.statvfs(self.place)
        return found.f_bavail * found.f_frsize

    def fill(self) -> None:
        """Leave no byte free."""
        with (self.place / _FILLER).open("ab") as file:
            start, step = file.tell(), self.free_bytes()
            while step >= 4096:
                try:
                    os.posix_fallocate(file.fileno(), start, step)
                    start += step
                except OSError:
                    step //= 2

    def empty(self) -> None:
        """Give the room back."""
        (self.place / _FILLER).unlink(missing_ok=True)

    def freeze(self) -> None:
        """Let every write wait; returns when what was written before is on the disk."""
        run("fsfreeze", "--freeze", str(self.place))

    def thaw(self) -> None:
        """Let writes go on."""
        run("fsfreeze", "--unfreeze", str(self.place))


def mounts_below(base: Path) -> list[str]:
    """Return what is mounted below a directory."""
    lines = Path("/proc/mounts").read_text().splitlines()
    places = (line.split()[1] for line in lines)
    return [place for place in places if place.startswith(f"{base}/")]


def thaw_below(base: Path) -> None:
    """Let writes go on in every file system below; one that is not frozen stays as it is."""
    for place in mounts_below(base):
        subprocess.run(["fsfreeze", "--unfreeze", place], capture_output=True, check=False)


def make_base() -> Path:
    """Return a new directory that PostgreSQL's user can reach, with this run's pid in its name."""
    base = Path(tempfile.mkdtemp(prefix=f"{PREFIX}-{os.getpid()}-"))
    base.chmod(0o755)
    return base


def remove_base(base: Path) -> None:
    """Unmount all below and remove the directory; nothing may run there any more."""
    thaw_below(base)
    for place in mounts_below(base):
        run("umount", place)
    shutil.rmtree(base)
