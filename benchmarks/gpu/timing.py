"""Contestants on a device side by side: round by round, with the limits of the device among them.

What counts is the device's time between two CUDA events, with an empty L2 cache. The launches are
queued behind a kernel that only waits, so that no time goes by between them for want of Python;
``wall_ms`` is a call as its caller sees it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from benchmarks.gpu.costs import Rates, Work
from benchmarks.gpu.report import Budget
from benchmarks.harness import MismatchError

Run = Callable[[], Any]

ROUNDS = 21

EVOKERN = "evokern"
COPY = "limit: copy on the device"
FMA = "limit: fma in registers"
MATMUL = "limit: torch matmul fp32, 8192 (TF32 off)"

_COPIED_BYTES = 1 << 30
_MATRIX = 8192
_FMA_THREADS, _FMA_SUMS, _FMA_STEPS = 256, 8, 16384
_FMA_SOURCE = """
extern "C" __global__ void fma_rate(float* out, double factor, double summand, int steps) {
  const float a = factor, b = summand;  // torch passes a float of Python as a double
  float sums[8];
  for (int i = 0; i < 8; ++i) sums[i] = threadIdx.x + i;
  for (int step = 0; step < steps; ++step) {
#pragma unroll
    for (int i = 0; i < 8; ++i) sums[i] = fmaf(sums[i], a, b);
  }
  float sum = 0.0f;
  for (int i = 0; i < 8; ++i) sum += sums[i];
  if (sum == -1.0f) *out = sum;
}
"""

_WAITING_CYCLES = 2e9  # a second's, about
_MOST_WAITING_S = 0.02


class Times(NamedTuple):
    """Milliseconds of one call; ``device`` is None without a GPU."""

    device: float | None
    wall: float


Clock = Callable[[Run], Times]


@dataclass(frozen=True)
class Contest:
    """evokern and its rivals on one work.

    A rival is made when its turn comes, since its data may not fit. ``check(name, result)`` raises
    MismatchError for a wrong result of one; before the run that it checks, ``clear`` wipes results
    of others from memory that both write to.
    """

    work: Work
    evokern: Run
    rivals: Mapping[str, Callable[[], Run]] = field(default_factory=dict)
    check: Callable[[str, Any], None] = lambda name, result: None
    clear: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Limit:
    """A limit of the device: ``amount`` bytes or operations of a run."""

    name: str
    run: Run
    amount: float
    is_memory: bool


@dataclass(frozen=True)
class Medians:
    """Of one contest: milliseconds by contestant, and why rivals are missing."""

    device_ms: dict[str, float | None]
    wall_ms: dict[str, float]
    missing: dict[str, str]
    rates: Rates | None
    limits: tuple[str, ...]
    """Names of the limits that ``rates`` are of: memory, arithmetic."""


def measure(
    contest: Contest, limits: tuple[Limit, ...], clock: Clock, rounds: int, budget: Budget
) -> Medians | None:
    """None where the time does not suffice for all rounds."""
    missing: dict[str, str] = {}
    runs = {EVOKERN: contest.evokern}
    contest.evokern()
    for name, make in contest.rivals.items():
        try:
            run = make()
            run()
            contest.clear()
            contest.check(name, run())
        except (MismatchError, MemoryError, RuntimeError) as error:  # torch's are RuntimeErrors
            missing[name] = f"{type(error).__name__}: {error}"
        else:
            runs[name] = run
    runs |= {limit.name: limit.run for limit in limits}
    for limit in limits:
        limit.run()
    times: dict[str, list[Times]] = {name: [] for name in runs}
    for _ in range(rounds):
        if budget.left() < 0:
            return None
        for name, run in runs.items():
            times[name].append(clock(run))
    wall = {name: statistics.median(t.wall for t in each) for name, each in times.items()}
    device = {name: _median_of_device(each) for name, each in times.items()}
    rates, names = _rates(limits, device)
    return Medians(device, wall, missing, rates, names)


def _median_of_device(times: list[Times]) -> float | None:
    found = [t.device for t in times if t.device is not None]
    return statistics.median(found) if found else None


def _rates(
    limits: tuple[Limit, ...], device_ms: Mapping[str, float | None]
) -> tuple[Rates | None, tuple[str, ...]]:
    """The best of each kind, and their names."""
    best = []
    for is_memory in (True, False):
        found = [
            (limit.amount / ms * 1e3, limit.name)
            for limit in limits
            if limit.is_memory == is_memory and (ms := device_ms[limit.name])
        ]
        if not found:
            return None, ()
        best.append(max(found))
    return Rates(best[0][0], best[1][0]), (best[0][1], best[1][1])


def wall_clock(run: Run) -> Times:
    """Where there is no GPU."""
    begin = time.perf_counter()
    run()
    return Times(None, 1e3 * (time.perf_counter() - begin))


def cuda_clock(place: Any) -> Clock:
    """``place`` is the torch.device."""
    import torch

    cuda = torch.cuda
    l2_bytes = cuda.get_device_properties(place).L2_cache_size
    flushed = torch.empty(2 * l2_bytes, dtype=torch.uint8, device=place)
    begin, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)

    def clock(run: Run) -> Times:
        flushed.zero_()
        cuda.synchronize()
        start = time.perf_counter()
        run()
        queued_s = time.perf_counter() - start
        cuda.synchronize()
        wall_s = time.perf_counter() - start
        flushed.zero_()
        cuda._sleep(int(2 * min(queued_s, _MOST_WAITING_S) * _WAITING_CYCLES))
        begin.record()
        run()
        end.record()
        end.synchronize()
        return Times(begin.elapsed_time(end), 1e3 * wall_s)

    return clock


def limits_of(place: Any) -> tuple[tuple[Limit, ...], dict[str, str]]:
    """The limits of the device, and why one cannot be measured."""
    import torch

    source = torch.ones(_COPIED_BYTES // 4, device=place)
    target = torch.empty_like(source)
    a, b = (torch.randn(_MATRIX, _MATRIX, device=place) for _ in range(2))
    product = torch.empty_like(a)
    found = [
        Limit(COPY, lambda: target.copy_(source), 2 * _COPIED_BYTES, True),
        Limit(MATMUL, lambda: torch.mm(a, b, out=product), 2 * _MATRIX**3, False),
    ]
    try:
        found.append(_fma_limit(place))
    except (AttributeError, RuntimeError, OSError) as error:
        return tuple(found), {FMA: f"{type(error).__name__}: {error}"}
    return tuple(found), {}


def _fma_limit(place: Any) -> Limit:
    """Of a kernel that NVRTC compiles, where torch offers that (2.9 and later)."""
    import torch

    cuda = torch.cuda
    kernel = cuda._compile_kernel(_FMA_SOURCE, "fma_rate")
    blocks = 8 * cuda.get_device_properties(place).multi_processor_count
    out = torch.zeros(1, device=place)
    arguments = [out, 0.5, 0.25, _FMA_STEPS]

    def run() -> None:
        kernel(grid=(blocks, 1, 1), block=(_FMA_THREADS, 1, 1), args=arguments)

    return Limit(FMA, run, 2.0 * blocks * _FMA_THREADS * _FMA_SUMS * _FMA_STEPS, False)
