"""How much memory there is, and an error that says so before the machine runs out of it."""

from __future__ import annotations

from pathlib import Path

from evokern.errors import MemoryLimitError

_SMALL_BYTES = 64 << 20  # below this the check costs more than it tells
_CGROUP = Path("/sys/fs/cgroup")


def available_bytes(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = _CGROUP) -> int | None:
    """Memory that can still be taken: the least of MemAvailable and the cgroup's rest.

    Like MemAvailable the rest counts what the kernel gives up at need: cached files that nobody
    used lately. None where neither can be read (not Linux).
    """
    limits = []
    try:
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                limits.append(int(line.split()[1]) * 1024)
    except OSError:
        pass
    # Version 2 of control groups, then version 1.
    for place, most, used, cached in (
        (".", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        folder = cgroup / place
        try:
            limit = (folder / most).read_text().strip()
            if limit != "max":
                taken = int((folder / used).read_text()) - _counter(folder / "memory.stat", cached)
                limits.append(max(0, int(limit) - max(0, taken)))
        except (OSError, ValueError):
            continue
    return min(limits, default=None)


def _counter(stat: Path, name: str) -> int:
    """A number of memory.stat; 0 where it cannot be read."""
    try:
        numbers = dict(line.split() for line in stat.read_text().splitlines())
        return int(numbers.get(name, 0))
    except (OSError, ValueError):
        return 0


def check_fits(
    wanted_bytes: int, what: str, *, rows: int | None = None, available: int | None = None
) -> None:
    """Raises MemoryLimitError when ``wanted_bytes`` are not there.

    ``rows`` (individuals) makes the error say how many would fit.
    """
    if wanted_bytes < _SMALL_BYTES and available is None:
        return
    there = available_bytes() if available is None else available
    if there is None or wanted_bytes <= there:
        return
    text = f"{what}: {wanted_bytes / 1e9:.2f} GB asked, {there / 1e9:.2f} GB there"
    if rows:
        text += f"; {int(there * rows // wanted_bytes)} of {rows} individuals would fit"
    else:
        text += "; use fewer individuals or a smaller batch"
    raise MemoryLimitError(text)
