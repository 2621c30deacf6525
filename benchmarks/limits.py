"""What this machine can do at best, measured with the instruction set in use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import numpy.typing as npt

from benchmarks.harness import Cases, Contest, Contestant
from evokern import _cpu
from evokern.population import allocate_genomes

LIMITS = ("multiply-add", "bf16 dot", "copy", "copy past the cache", "read")
"""In the order of MachineLimit in csrc/cpu/kernels.h."""

COPIES = ("copy", "copy past the cache")

NO_BF16_DOT = "the instruction set in use has no product of bf16"

_MOVED_FLOATS = 1 << 25  # 128 MiB: larger than any cache
_STEPS = 10_000_000  # about 20 ms where a core does 100 GFLOP/s
_BLOCK = 1024  # floats; what the kernel's arrays are multiples of


def cases(quick: bool) -> Cases:
    """All limits, one contest without contestants."""
    return {"limits": partial(_all_limits, quick)}


def has_bf16_dot() -> bool:
    """Whether the instruction set in use multiplies bf16 by itself."""
    return bool(_cpu.native_bf16())


def limits(names: Sequence[str], quick: bool) -> tuple[Contestant, ...]:
    """The limits of these names as contestants; ``quick`` measures them too briefly to be true."""
    source = _ones(_MOVED_FLOATS >> 8 if quick else _MOVED_FLOATS)
    target = _ones(len(source))
    steps = _STEPS // 100 if quick else _STEPS
    return tuple(_limit(name, source, target, steps) for name in names)


@contextmanager
def _all_limits(quick: bool) -> Iterator[Contest]:
    here = [name for name in LIMITS if name != "bf16 dot" or has_bf16_dot()]
    absent = {} if has_bf16_dot() else {"limit: bf16 dot": NO_BF16_DOT}
    yield Contest((), limits(here, quick), missing=absent)


def _limit(
    name: str, source: npt.NDArray[np.float32], target: npt.NDArray[np.float32], steps: int
) -> Contestant:
    kind = LIMITS.index(name)
    if name in ("multiply-add", "bf16 dot"):
        operations = _cpu.machine_limit(kind, source[:_BLOCK], target[:_BLOCK], 1) / _cpu.threads()
        return Contestant(
            f"limit: {name}",
            lambda threads: _cpu.machine_limit(kind, source, target, steps // threads),
            operations * steps,
            "GFLOP/s",
        )
    moved = source.nbytes if name == "read" else source.nbytes + target.nbytes
    return Contestant(
        f"limit: {name}",
        lambda threads: _cpu.machine_limit(kind, source, target, 0),
        moved,
        "GB/s",
    )


def _ones(count: int) -> npt.NDArray[np.float32]:
    """Written memory: pages nobody wrote to are all the same one, which never leaves the cache."""
    array = allocate_genomes(1, count)
    array.fill(1.0)
    return array.reshape(count)
