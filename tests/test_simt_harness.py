"""The harness of tests/simt: every detector finds the mistake that was planted for it
(tests/simt/planted.cu), and says nothing of the same kernel without it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import column
import numpy as np
import pytest
import reports

import build

pytestmark = pytest.mark.skipif(build.unavailable() != "", reason=build.unavailable())

F = np.float32
ORDERS = (("forward", 0), ("reverse", 0), ("random", 1), ("random", 2))
N = 64
IN = np.arange(N, dtype=F) + F(0.5)
SOURCE = (Path(build.HERE) / "planted.cu").read_text().splitlines()


@pytest.fixture(scope="module")
def release() -> ModuleType:
    return build.load("release", "_planted")


@pytest.fixture(scope="module")
def race() -> ModuleType:
    return build.load("race", "_planted")


@contextmanager
def order_of_threads(module: ModuleType, name: str, seed: int = 0) -> Iterator[None]:
    """The block's launches in this order, later ones forward."""
    module.set_order(name, seed)
    try:
        yield
    finally:
        module.set_order("forward")


def run(
    module: ModuleType,
    kernel: str,
    right: bool = True,
    *,
    n: int = N,
    blocks: int = 1,
    threads: int = N,
    shared_bytes: int = 0,
    outputs: int = N,
    start: float = np.nan,
) -> np.ndarray:
    """What the kernel makes of `IN`: float32 [outputs], ``start`` where it writes nothing."""
    memory = module.empty(4 * 2048).view(F)
    memory[: IN.size] = IN
    out = module.empty(4 * outputs).view(F)
    out[...] = start
    places = (memory.ctypes.data, out.ctypes.data)
    assert module.run(kernel, right, *places, n, blocks, threads, shared_bytes) == 0
    return out


REVERSED = IN[::-1]
LANES = np.arange(32)
SWAPPED = np.where(np.arange(N) < 16, IN[np.arange(N) ^ 1], IN)
RIGHT: dict[str, tuple[dict[str, int], np.ndarray]] = {
    "missing_barrier": ({}, REVERSED),
    "missing_second_barrier": ({}, 3 * REVERSED + 3),
    "missing_syncwarp": ({"threads": 32, "outputs": 32}, np.full(32, 0.5)),
    "syncwarp_of_other_lanes": ({"threads": 32, "outputs": 32}, IN[LANES ^ 3]),
    "missing_wait": ({}, REVERSED),
    "copy_left_behind": ({}, IN),
    "double_buffer": ({}, 4 * REVERSED),
    "copy_misaligned": ({"threads": 1, "outputs": 1}, IN[:1]),
    "copy_to_global": ({}, IN),
    "index_overrun": ({"n": 1}, IN),
    "static_overrun": ({"n": 1}, IN),
    "dynamic_overrun": ({"n": 1, "shared_bytes": 256}, IN),
    "global_overrun": ({"n": 2048 - N + 1}, IN),
    "divergent_barrier": ({}, IN),
    "early_exit": ({}, IN),
    "missing_lanes": ({}, SWAPPED),
    "different_masks": ({"threads": 32, "outputs": 32}, IN[LANES ^ 1]),
    "lane_outside_its_mask": ({"threads": 32, "outputs": 32}, np.full(32, 0.5)),
    "unwritten_output": ({}, IN),
    "unwritten_shared": ({}, IN),
    "shared_of_another_block": ({"blocks": 2, "outputs": 2 * N}, np.tile(IN, 2)),
    "race_between_blocks": ({"blocks": 3, "start": 0}, 3 * IN),
    "bytes_of_a_word": ({"outputs": N // 4}, np.arange(N, dtype=np.uint8).view(F)),
    "copy_floats": ({"n": 61, "outputs": 61}, IN[:61]),
    "copy_float4": ({}, IN),
    "touch_float": ({"n": 3, "threads": 32, "outputs": 32, "shared_bytes": 4096}, IN[:32]),
    "touch_float2": ({"n": 3, "threads": 32, "shared_bytes": 4096}, IN),
    "touch_by_copy": ({"n": 3, "threads": 16, "shared_bytes": 4096}, IN),
    "touch_float4": ({"n": 3, "threads": 16, "shared_bytes": 4096}, IN),
    "broadcast": ({"threads": 32, "outputs": 32, "shared_bytes": 4}, np.full(32, 0.5)),
}
"""What a right kernel is launched with, and gives."""


@pytest.mark.parametrize("kernel", RIGHT)
def test_right_kernels_raise_nothing(release: ModuleType, race: ModuleType, kernel: str) -> None:
    launch, expected = RIGHT[kernel]
    race.reset()
    for module in (release, race):
        for order in ORDERS:
            with order_of_threads(module, *order):
                actual = run(module, kernel, **launch)
            np.testing.assert_array_equal(actual, expected.astype(F), str(order))
    assert race.races() == []
    assert race.unwritten_reads() == []


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_collectives(release: ModuleType, order: tuple[str, int]) -> None:
    with order_of_threads(release, *order):
        rows = run(release, "collectives", threads=32, outputs=16 * 32).reshape(16, 32)
    v = IN[:32]
    first = LANES < 20
    expected = [
        np.full(32, v[5]),
        v[LANES // 8 * 8 + 1],
        np.where(LANES < 3, v, v[LANES - 3]),
        np.where(LANES > 28, v, v[(LANES + 3) % 32]),
        np.where(LANES % 16 > 12, v, v[(LANES + 3) % 32]),
        v[LANES ^ 16],
        *(np.full(32, value) for value in (7, 1, 0)),
        np.where(first, F(2**20 - 1), F(2**32 - 2**20)),
        *(np.full(32, value) for value in (496, 31, 2, 9, 1, 0)),
    ]
    np.testing.assert_array_equal(rows, np.array(expected, F))


def same_everywhere(module: ModuleType, kernel: str, expected: np.ndarray, **launch: int) -> bool:
    """Whether the wrong kernel gives the right result in every order."""
    results = []
    for order in ORDERS:
        with order_of_threads(module, *order):
            results.append(run(module, kernel, False, **launch))
    return all(np.array_equal(result, expected) for result in results)


@pytest.mark.parametrize(
    "kernel",
    [
        *("missing_barrier", "missing_second_barrier", "missing_syncwarp", "missing_wait"),
        *("double_buffer", "unwritten_shared", "shared_of_another_block"),
    ],
)
def test_missing_order_shows_in_the_result(release: ModuleType, kernel: str) -> None:
    launch, expected = RIGHT[kernel]
    assert not same_everywhere(release, kernel, expected.astype(F), **launch)


def test_a_missing_syncwarp_needs_more_than_one_order(release: ModuleType) -> None:
    launch, expected = RIGHT["missing_syncwarp"]
    np.testing.assert_array_equal(run(release, "missing_syncwarp", False, **launch), expected)
    with order_of_threads(release, "reverse"):
        result = run(release, "missing_syncwarp", False, **launch)
    assert result[0] == F(0.5)
    assert np.isnan(result[1:]).all()


def test_orders_can_be_repeated(release: ModuleType) -> None:
    results = []
    for seed in (5, 5, 6):
        with order_of_threads(release, "random", seed):
            results.append(run(release, "missing_barrier", False))
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2], equal_nan=True)


def test_an_unknown_order(release: ModuleType) -> None:
    with pytest.raises(ValueError, match="order: expected forward, reverse or random, got up"):
        release.set_order("up")


def test_the_environment_chooses_the_order() -> None:
    code = (
        "import build, numpy as np; m = build.load('release', '_planted'); o = m.empty(128)\n"
        "i = np.full(32, 2, np.float32)\n"
        "m.run('missing_syncwarp', False, i.ctypes.data, o.ctypes.data, 0, 1, 32, 0)\n"
        "assert np.isnan(o.view(np.float32)[1:]).all()"
    )
    environment = os.environ | {"EVOKERN_SIMT_ORDER": "reverse"}
    subprocess.run([sys.executable, "-c", code], cwd=build.HERE, env=environment, check=True)


def line_of(kernel: str, text: str, skip: int = 0) -> str:
    """``planted.cu:N`` of a line of the kernel with ``text``, the one after ``skip`` others."""
    begin = next(i for i, line in enumerate(SOURCE) if f"{kernel}(const" in line)
    lines = [i for i in range(begin, len(SOURCE)) if text in SOURCE[i]]
    return f"planted.cu:{lines[skip] + 1}"


def test_a_divergent_barrier(release: ModuleType) -> None:
    first, second = (line_of("divergent_barrier", "__syncthreads", skip) for skip in (0, 1))
    expected = (
        "simt: evk::cuda::divergent_barrier<false>, block (0, 0, 0), thread (16, 0, 0): "
        f"__syncthreads at {second}, but thread (0, 0, 0) waits in __syncthreads at {first}"
    )
    with pytest.raises(release.KernelError, match=f"^{re.escape(expected)}$"):
        run(release, "divergent_barrier", False)


def test_lanes_that_do_not_come(release: ModuleType) -> None:
    shuffle = line_of("missing_lanes", "__shfl_xor_sync")
    barrier = line_of("missing_lanes", "__syncthreads")
    expected = (
        f"deadlock: __shfl_xor_sync at {shuffle} waits for lanes 0xffffffff, but lane 16 waits in "
        f"__syncthreads at {barrier}"
    )
    with pytest.raises(release.KernelError, match=f"{re.escape(expected)}$"):
        run(release, "missing_lanes", False)


FAILURES = {
    "divergent_barrier": "__syncthreads at .* waits in __syncthreads at",
    "early_exit": r"__syncthreads at planted.cu:\d+: 16 of 64 threads have exited",
    "missing_lanes": "deadlock: __shfl_xor_sync at .* waits for lanes 0xffffffff, but lane 16",
    "different_masks": "__syncwarp at .* lanes 0xffffffff.*__shfl_xor_sync.* lanes 0xffffffff",
    "lane_outside_its_mask": "is not in its own mask 0x0000ffff",
    "copy_left_behind": "exits with asynchronous copies that it has not waited for",
    "copy_misaligned": "asynchronous copy of 16 bytes between addresses that are not multiples",
    "copy_to_global": "an asynchronous copy to what is not shared memory",
}


@pytest.mark.parametrize("kernel", FAILURES)
def test_failures_are_exceptions_in_every_order(release: ModuleType, kernel: str) -> None:
    launch, expected = RIGHT[kernel]
    for order in ("forward", "random"):
        with (
            order_of_threads(release, order, 3),
            pytest.raises(release.KernelError, match=FAILURES[kernel]),
        ):
            run(release, kernel, False, **launch)
        # What the failed launch left behind is in nobody's way.
        np.testing.assert_array_equal(run(release, kernel, **launch), expected)


def test_an_output_that_is_not_written_stays_nan(release: ModuleType) -> None:
    out = run(release, "unwritten_output", False)
    np.testing.assert_array_equal(out[:-1], IN[:-1])
    assert np.isnan(out[-1])


def test_launches_that_cuda_refuses(release: ModuleType) -> None:
    def error(blocks: int, threads: int, shared_bytes: int) -> int:
        memory = release.empty(4 * N)
        place = memory.ctypes.data
        return release.run("copy_floats", True, place, place, N, blocks, threads, shared_bytes)

    assert error(1, N, 48 << 10) == 0
    assert error(1, 1025, 0) == 9  # cudaErrorInvalidConfiguration
    assert error(1, 0, 0) == 9
    assert error(0, N, 0) == 9
    assert error(1, N, (48 << 10) + 4) == 1  # cudaErrorInvalidValue


def test_static_variables_of_launchers_are_no_shared_memory(release: ModuleType) -> None:
    def launches() -> int:
        return release.run("launches", True, 0, 0, 0, 1, 1, 0)

    before = launches()
    assert 0 < before < 10**6
    run(release, "missing_barrier")
    assert launches() == before + 2


RACES = {
    "missing_barrier": ("read-write race", "shared", "s[kThreads - 1 - i]"),
    "missing_second_barrier": ("read-write race", "shared", "s[i] = "),
    "missing_syncwarp": ("read-write race", "shared", "a.out[i] = s"),
    "syncwarp_of_other_lanes": ("read-write race", "shared", "s[i ^ 3u]"),
    "missing_wait": ("asynchronous copy in flight", "shared", "s[kThreads - 1 - i]"),
    "double_buffer": ("asynchronous copy in flight", "shared", "s[round % 2]"),
    "race_between_blocks": ("read-write race", "global", "a.out[i] += a.in[i]"),
    "bytes_of_a_word": ("write-write race", "global", "bytes[kRight ? i : i / 2]"),
}


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
@pytest.mark.parametrize("kernel", RACES)
def test_races(race: ModuleType, kernel: str, order: str) -> None:
    what, memory, line = RACES[kernel]
    race.reset()
    with order_of_threads(race, order, 1):
        run(race, kernel, False, **RIGHT[kernel][0])
    found = [f for f in race.races() if (f["what"], f["memory"]) == (what, memory)]
    lines = {place for f in found for place in (f["place"], f["other_place"])}
    assert line_of(kernel, line) in lines
    assert {f["kernel"] for f in found} == {f"evk::cuda::{kernel}<false>"}
    assert {f["other_block"] for f in found} == {kernel == "race_between_blocks"}


@pytest.mark.parametrize("kernel", ["unwritten_shared", "shared_of_another_block"])
def test_reads_of_unwritten_shared_memory(race: ModuleType, kernel: str) -> None:
    race.reset()
    run(race, kernel, False, **RIGHT[kernel][0])
    (found,) = race.unwritten_reads()
    assert race.races() == []
    expected = {"unwritten_shared": ("(0, 0, 0)", 32), "shared_of_another_block": ("(1, 0, 0)", 64)}
    block, times = expected[kernel]
    read = " = s[i]"
    assert found["times"] == times
    assert reports.describe(found) == (
        f"evk::cuda::{kernel}<false>, block {block}, thread {found['thread']}: read of unwritten "
        f"shared memory at {line_of(kernel, read)}, {times} times"
    )


def counted(race: ModuleType, kernel: str, **launch: int) -> dict[str, int]:
    """Of one launch: bytes read, bytes written, shared requests, bank conflicts."""
    race.reset()
    run(race, kernel, **launch)
    (count,) = race.counts()
    assert count["kernel"] == f"evk::cuda::{kernel}<true>"
    keys = ("global_read_bytes", "global_written_bytes", "shared_requests", "bank_conflicts")
    assert sum(count["conflicts_at"].values()) == count["bank_conflicts"]
    return tuple(count[key] for key in keys)


WARP = {"threads": 32, "outputs": 128, "shared_bytes": 48 << 10}
COUNTS = [
    # kernel, launch, bytes read, bytes written, requests, conflicts
    ("copy_floats", {"n": 150, "blocks": 3, "outputs": 150}, (600, 600, 0, 0)),
    ("copy_float4", {"n": 200, "outputs": 200}, (800, 800, 0, 0)),
    ("missing_barrier", {}, (256, 256, 4, 0)),
    ("race_between_blocks", {"blocks": 3, "start": 0}, (2 * 768, 768, 0, 0)),
    ("bytes_of_a_word", {"outputs": 16}, (0, 64, 0, 0)),
    # one request writes, one reads
    ("touch_float", WARP | {"n": 1}, (128, 128, 2, 0)),
    ("touch_float", WARP | {"n": 2}, (128, 128, 2, 2 * 1)),
    ("touch_float", WARP | {"n": 3}, (128, 128, 2, 0)),
    ("touch_float", WARP | {"n": 8}, (128, 128, 2, 2 * 7)),
    ("touch_float", WARP | {"n": 32}, (128, 128, 2, 2 * 31)),
    ("touch_float", WARP | {"n": 33}, (128, 128, 2, 0)),
    # 8 bytes: half a warp at a time
    ("touch_float2", WARP | {"n": 1}, (256, 256, 2, 0)),
    ("touch_float2", WARP | {"n": 2}, (256, 256, 2, 2 * 2 * 1)),
    ("touch_float2", WARP | {"n": 16}, (256, 256, 2, 2 * 2 * 15)),
    # 16 bytes: a quarter of a warp at a time
    ("touch_float4", WARP | {"n": 1}, (512, 512, 2, 0)),
    ("touch_float4", WARP | {"n": 2}, (512, 512, 2, 2 * 4 * 1)),
    ("touch_float4", WARP | {"n": 3}, (512, 512, 2, 0)),
    ("touch_float4", WARP | {"n": 8}, (512, 512, 2, 2 * 4 * 7)),
    ("touch_by_copy", WARP | {"n": 1}, (512, 512, 2, 0)),
    ("touch_by_copy", WARP | {"n": 8}, (512, 512, 2, 2 * 4 * 7)),
    ("broadcast", WARP, (4, 128, 2, 0)),
    ("missing_wait", {}, (256, 256, 4, 0)),
]


@pytest.mark.parametrize(("kernel", "launch", "expected"), COUNTS)
def test_counts(
    race: ModuleType, kernel: str, launch: dict[str, int], expected: tuple[int, ...]
) -> None:
    # Room for 128 floats where a kernel writes 32.
    assert counted(race, kernel, **launch) == expected


def test_counts_of_several_launches(race: ModuleType) -> None:
    race.reset()
    run(race, "touch_float", **(WARP | {"n": 4}))
    run(race, "copy_floats", n=61)
    first, second = race.counts()
    line = line_of("touch_float", "s[threadIdx.x * a.n]")
    assert first["conflicts_at"][line] == 3
    assert (first["grid"], first["block"]) == ((1, 1, 1), (32, 1, 1))
    assert (second["global_read_bytes"], second["conflicts_at"]) == (244, {})
    race.reset()
    assert race.counts() == []


def test_races_and_counts_can_be_left_out(race: ModuleType) -> None:
    race.reset()
    try:
        race.watch(races=False, counts=True)
        run(race, "missing_barrier", False)
        assert race.races() == []
        assert race.counts()[0]["global_read_bytes"] == 256
        race.watch(races=True, counts=False)
        run(race, "missing_barrier", False)
        assert race.races() != []
        assert race.counts()[1]["global_read_bytes"] == 0
    finally:
        race.watch()


def test_the_column_raises_for_what_is_found(race: ModuleType) -> None:
    expected = RIGHT["missing_barrier"][1]
    np.testing.assert_array_equal(column._watched(race, run, race, "missing_barrier"), expected)
    with pytest.raises(race.KernelError, match=r"read-write race .*\n.*unwritten shared"):
        column._watched(race, run, race, "missing_barrier", False)
    assert len(race.counts()) == 1


ASAN = """
import sys
sys.path.insert(0, ".")
import build, test_simt_harness as t
m = build.load("asan", "_planted")
for order in t.ORDERS:
    m.set_order(*order)
    for kernel in {kernels}:
        launch, expected = t.RIGHT[kernel]
        assert (t.run(m, kernel, {right}, **launch) == expected.astype(t.F)).all(), kernel
for kernel in t.FAILURES:
    try:
        t.run(m, kernel, False, **t.RIGHT[kernel][0])
        sys.exit(kernel)
    except m.KernelError as error:
        assert f"{{kernel}}<false>" in str(error), error
print("nothing found")
"""


def under_asan(right: bool, kernels: list[str]) -> subprocess.CompletedProcess[str]:
    libraries = [
        subprocess.run(
            [build.CXX, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    if not all(Path(library).is_absolute() for library in libraries):
        pytest.skip("g++ has no sanitizers here")
    build.build("asan", "_planted")
    environment = os.environ | {
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    code = ASAN.format(kernels=kernels, right=right)
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_right_kernels_raise_nothing_under_asan() -> None:
    result = under_asan(True, list(RIGHT))
    assert (result.returncode, result.stdout) == (0, "nothing found\n"), result.stderr


@pytest.mark.parametrize(
    ("kernel", "what", "line"),
    [
        ("index_overrun", "runtime error: index 64 out of bounds", "s[i + a.n * !kRight]"),
        ("static_overrun", "AddressSanitizer: global-buffer-overflow", "put(s + i + a.n * !kRight"),
        ("dynamic_overrun", "AddressSanitizer: heap-buffer-overflow", "s[i + a.n * !kRight]"),
        ("global_overrun", "AddressSanitizer: heap-buffer-overflow", "a.in[i + a.n * !kRight]"),
    ],
)
def test_asan_finds_accesses_out_of_bounds(kernel: str, what: str, line: str) -> None:
    result = under_asan(False, [kernel])
    assert result.returncode != 0
    assert what in result.stderr
    assert line_of(kernel, line) in result.stderr


def test_a_source_is_compiled_anew_when_it_or_its_headers_change(tmp_path: Path) -> None:
    header, source = tmp_path / "size.h", tmp_path / "size.cpp"
    header.write_text("constexpr int kSize = 1;")
    source.write_text('#include "size.h"\nint size() { return kSize; }')
    target = tmp_path / "size.cpp.o"
    command = ["-MD", "-MF", str(target.with_suffix(".d")), "-c", str(source)]
    job = build.Job(source, target, (build.CXX, *command))
    assert [job.run(), job.run()] == [True, False]
    header.write_text("constexpr int kSize = 2;")
    assert [job.run(), job.run()] == [True, False]
    changed = build.Job(source, target, (build.CXX, "-O1", *command))
    assert [changed.run(), changed.run()] == [True, False]
    source.write_text("int size() { return kSize; }")
    with pytest.raises(RuntimeError, match="kSize"):
        changed.run()
    with pytest.raises(RuntimeError, match="kSize"):
        changed.run()
