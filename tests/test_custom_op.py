"""examples/custom_op, an op outside of the project: the same bits by every back end.

EVOKERN_CUSTOM_OP=installed takes the package that is installed (`make custom-op`); without it the
tests build their own under build/.
"""

from __future__ import annotations

import importlib
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest
from cases import SEED, F, numbers, padded, special_numbers, subnormal_numbers, threads
from rich.console import Console

import build
import evokern
from evokern import _devices, doctor
from evokern._table import BACKENDS, TABLE
from evokern.errors import ArgumentError, BackendError, DtypeError, LayoutError, ShapeError
from evokern.testing import assert_same_bits, fill_outputs_with_nan

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "custom_op"
BUILD = ROOT / "build" / "custom_op"
OP = "laplace_mutate"
VARIANT = os.environ.get("EVOKERN_SIMT_VARIANT", "release")
PLACE = {"seed": SEED, "generation": 77}

COLUMNS = [
    "cpu",
    *(pytest.param("cuda", marks=pytest.mark.simt) for _ in ("simt",) if "simt" in BACKENDS),
    *(
        pytest.param(name, marks=pytest.mark.triton)
        for name in ("triton-interpreter",)
        if name in BACKENDS
    ),
]
"""The kernels in C++, CUDA's on the harness, Triton's in its interpreter."""


def build_package() -> Path:
    """The folder of a build without CUDA; only what has changed is compiled."""
    library = BUILD / f"lib-{sys.implementation.cache_tag}"
    commands = ["egg_info", "--egg-base", str(BUILD)]
    commands += ["build", "--build-base", str(BUILD), "--build-lib", str(library)]
    # The sanitizers are for the harness; preloaded, they would look at the compiler too.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    with build._alone(BUILD / "all"):
        subprocess.run(
            [sys.executable, "setup.py", "-q", *commands],
            cwd=EXAMPLE,
            env=environment | {"EVOKERN_CUDA": "0"},
            check=True,
        )
    return library


@pytest.fixture(scope="module")
def custom_op() -> Iterator[ModuleType]:
    """The package; afterwards the table has no row of it."""
    library = "" if os.environ.get("EVOKERN_CUSTOM_OP") == "installed" else str(build_package())
    with mock.patch.object(sys, "path", [library, *sys.path] if library else sys.path):
        module = importlib.import_module("custom_op")
        if "triton-interpreter" in BACKENDS:
            importlib.import_module("interpreter").add_column()
        yield module
    del TABLE[OP]


@pytest.fixture(scope="module")
def harness(custom_op: ModuleType) -> ModuleType:
    """The CUDA kernel on the processor, in the place of ``custom_op._cuda``."""
    name = "_laplace"
    kernels, bindings = [EXAMPLE / "csrc/laplace.cu"], [EXAMPLE / "csrc/bindings_cuda.cpp"]
    jobs = build._jobs(VARIANT, name, kernels, bindings)
    for job in jobs:
        job.run()
    objects, flags = [job.object for job in jobs], build.VARIANTS[VARIANT][1]
    path = build._link(build.BUILD / VARIANT / f"{name}.so", objects, flags)
    with mock.patch.object(build, "build", return_value=path):
        native = build.load(VARIANT, name)
    custom_op._cuda = native
    TABLE[OP].functions["cuda"] = "custom_op.cuda:laplace_mutate"
    return native


@pytest.fixture
def run(custom_op: ModuleType, request: pytest.FixtureRequest, monkeypatch: Any) -> Any:
    """``run(column, genomes, sigma, **options)``: the result on the host."""

    def on_the_harness(genomes: np.ndarray, *arguments: Any, **options: Any) -> np.ndarray:
        from standin import LIBRARY, OnHarness

        native = request.getfixturevalue("harness")
        monkeypatch.setitem(_devices.LIBRARIES, "standin", LIBRARY)
        if options.get("out") is not None:
            options["out"] = OnHarness(options["out"])
        if VARIANT == "race":
            native.reset()
        result = custom_op.laplace_mutate(OnHarness(genomes), *arguments, **options)
        if VARIANT == "race":
            assert [*native.races(), *native.unwritten_reads()] == []
        return result.values

    def anywhere(column: str, *arguments: Any, **options: Any) -> np.ndarray:
        if column == "cuda":
            return on_the_harness(*arguments, backend="cuda", **options)
        with fill_outputs_with_nan():
            return custom_op.laplace_mutate(*arguments, backend=column, **options)

    return anywhere


def sigmas(slots: int) -> np.ndarray:
    """Every third one is 0; one lies among the subnormals, one overflows."""
    sigma = np.linspace(0.01, 2, slots, dtype=F)
    sigma[1::3] = 0
    sigma[3:4], sigma[5:6] = 3e-39, 3e38
    return sigma


SIZES = [(1, 1), (2, 3), (3, 4), (9, 5), (7, 63), (6, 64), (4, 65), (2, 257), (1, 4099), (70, 17)]
CASES: dict[str, dict[str, Any]] = {
    **{f"{slots} x {genes}": {"shape": (slots, genes)} for slots, genes in SIZES},
    "no genomes": {"shape": (0, 5)},
    "no genes": {"shape": (3, 0)},
    "special numbers": {"values": special_numbers},
    "subnormals": {"values": subnormal_numbers},
    "first 2^32 - 2": {"first": 2**32 - 2},
    "seed 0": {"seed": 0},
    "seed 2^64 - 1": {"seed": 2**64 - 1},
    "generation 2^32 - 1": {"generation": 2**32 - 1},
    "rows at odd addresses": {"pad": (3, 1), "shape": (5, 66)},
    "padded rows": {"pad": (2, 0), "shape": (5, 66)},
    "out at odd addresses": {"out_pad": (1, 3), "shape": (5, 64)},
    "in place": {"in_place": True},
}


def call(
    shape: tuple[int, int] = (9, 131),
    *,
    values: Any = numbers,
    pad: tuple[int, int] = (0, 0),
    out_pad: tuple[int, int] | None = None,
    in_place: bool = False,
    **options: Any,
) -> tuple[tuple[np.ndarray, ...], dict[str, Any]]:
    genomes = padded(values(*shape), *pad)
    if in_place or out_pad is not None:
        options["out"] = genomes if in_place else padded(np.zeros(shape, F), *out_pad)
    return (genomes, sigmas(shape[0])), PLACE | options


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("case", CASES)
def test_same_bits_as_the_reference(run: Any, case: str, column: str) -> None:
    arguments, options = call(**CASES[case])
    expected_arguments, expected_options = call(**CASES[case])
    expected = run("reference", *expected_arguments, **expected_options)
    assert_same_bits(run(column, *arguments, **options), expected)


@pytest.mark.parametrize("column", ["reference", *COLUMNS])
def test_literal_values(run: Any, column: str) -> None:
    genomes, sigma = np.ones((2, 6), F), np.array([0.5, 0], F)
    child = run(column, genomes, sigma, seed=7, generation=3, first=11)
    expected = [0x3FE452CE, 0x3ED6C000, 0x3FAD71BC, 0x3F8A1DB2, 0x3EB600D2, 0x3FB19570]
    assert [*child[0].view(np.uint32)] == expected
    assert (child[1] == 1).all()


@pytest.mark.parametrize("column", ["reference", *COLUMNS])
def test_copies_keep_every_bit_of_nan(run: Any, column: str) -> None:
    payloads = np.arange(0x7F800001, 0x7F800001 + 131, dtype=np.uint32)
    genomes = np.stack([payloads, payloads | 0x80400000]).view(F)
    child = run(column, genomes, np.array([0, -0.0], F), **PLACE)
    assert (child.view(np.uint32) == genomes.view(np.uint32)).all()


@pytest.mark.parametrize("column", ["reference", *COLUMNS])
def test_a_shard_draws_what_the_whole_would_have(run: Any, column: str) -> None:
    genomes, sigma = numbers(9, 70), sigmas(9)
    whole = run(column, genomes, sigma, first=5, **PLACE)
    assert_same_bits(run(column, genomes[4:], sigma[4:], first=9, **PLACE), whole[4:])


@pytest.mark.parametrize("column", COLUMNS)
def test_nothing_beside_out_is_written(run: Any, column: str) -> None:
    memory = np.full((6, 40), 5, F)
    run(column, numbers(4, 33), sigmas(4), out=memory[1:5, 3:36], **PLACE)
    memory[1:5, 3:36] = 5
    assert (memory == 5).all()


WORDS = {
    0x00000000: 0x41851592,  # -log(2^-24)
    0x000001FF: 0xC1851592,
    0x00000200: 0x4178973A,  # -log(3 * 2^-24)
    0x7FFFFFFF: 0xBF31721A,
    0x80000000: 0x3F317216,
    0xFFFFFE00: 0x33800000,  # -log(1 - 2^-24)
    0xFFFFFFFF: 0xB3800000,
    0x12345678: 0x40292F4A,
}


def test_deviates_are_those_of_the_rule(custom_op: ModuleType) -> None:
    reference = importlib.import_module("custom_op.reference")
    words = np.array([*WORDS], np.uint32)
    deviates = reference.laplace_deviates(words)
    assert [*deviates.view(np.uint32)] == [*WORDS.values()]
    for word, deviate in zip(WORDS, deviates, strict=True):
        exact = -math.log(((word >> 9) + 0.5) / 2**23)
        assert abs(abs(float(deviate)) - exact) <= 2 * np.spacing(F(exact))
        assert (deviate < 0) == (word & 1 == 1)


def test_deviates_are_laplace_s(custom_op: ModuleType) -> None:
    reference = importlib.import_module("custom_op.reference")
    words = np.random.default_rng(0).integers(0, 1 << 32, 1 << 18, dtype=np.uint32)
    deviates = reference.laplace_deviates(words).astype(np.float64)
    assert abs(deviates.mean()) < 6 * math.sqrt(2 / len(words))
    assert abs(deviates.var() - 2) < 6 * math.sqrt(20 / len(words))
    for limit in (0.1, 1, 3):
        share = (deviates > limit).mean()
        assert abs(share - math.exp(-limit) / 2) < 6 * math.sqrt(0.25 / len(words))


def test_threads_do_not_show(run: Any) -> None:
    genomes, sigma = numbers(30, 257), sigmas(30)
    with threads(1):
        expected = run("cpu", genomes, sigma, **PLACE)
    with threads(3):
        assert_same_bits(run("cpu", genomes, sigma, **PLACE), expected)


@pytest.mark.torch
def test_tensors_and_flushed_subnormals(run: Any) -> None:
    torch = pytest.importorskip("torch")
    genomes, sigma = subnormal_numbers(3, 70), np.full(3, 3e-39, F)
    expected = run("reference", genomes, sigma, **PLACE)
    assert (expected != 0).any()
    torch.set_flush_denormal(True)
    try:
        with threads(1):
            child = run("cpu", torch.from_numpy(genomes), sigma, **PLACE)
    finally:
        torch.set_flush_denormal(False)
    assert isinstance(child, torch.Tensor)
    assert_same_bits(child.numpy(), expected)


GENOMES, SIGMA = np.zeros((3, 5), F), np.ones(3, F)


@pytest.mark.parametrize(
    ("error", "arguments", "options", "words"),
    [
        (DtypeError, (GENOMES.astype(float), SIGMA), {}, r"genomes: expected float32 \[P, G\]"),
        (ShapeError, (GENOMES[0], SIGMA), {}, r"genomes: expected float32 \[P, G\]"),
        (LayoutError, (GENOMES.T, np.ones(5, F)), {}, "genomes: expected .* contiguous last axis"),
        (ShapeError, (GENOMES, SIGMA[:2]), {}, r"sigma: expected \[P\] = \[3\], got \[2\]"),
        (ArgumentError, (GENOMES, -SIGMA), {}, "sigma: expected finite numbers >= 0"),
        (ArgumentError, (GENOMES, SIGMA * F(np.nan)), {}, "sigma: expected finite numbers >= 0"),
        (ArgumentError, (GENOMES, SIGMA), {"seed": 2**64}, "seed: expected an int in"),
        (ArgumentError, (GENOMES, SIGMA), {"first": -1}, "first: expected an int in"),
        (ShapeError, (GENOMES, SIGMA), {"out": GENOMES[:2]}, r"out: expected \[P, G\] = \[3, 5\]"),
        (BackendError, (GENOMES, SIGMA), {"backend": "gpu"}, "backend: expected auto or one of"),
        (BackendError, (GENOMES, SIGMA), {"backend": "triton"}, "genomes: expected an array on a"),
    ],
)
def test_errors_are_those_of_evokern(custom_op, error, arguments, options, words) -> None:
    with pytest.raises(error, match=words):
        custom_op.laplace_mutate(*arguments, **PLACE | options)


@pytest.mark.parametrize(
    ("name", "functions", "words"),
    [
        (OP, {"reference": "elsewhere:laplace_mutate"}, "name: expected a name that no op has"),
        ("other", {"reference": "a:b", "opencl": "a:b"}, "functions: expected back ends of"),
        ("other", {"cpu": "custom_op.cpu:b"}, "functions: expected reference among them"),
    ],
)
def test_rows_that_are_none_are_refused(custom_op, name, functions, words) -> None:
    with pytest.raises(ArgumentError, match=words):
        evokern.add_op(name, functions)
    assert "other" not in TABLE


def test_doctor_and_which_know_the_op(custom_op: ModuleType) -> None:
    console = Console(record=True, width=200)
    doctor.report(console)
    lines = [line for line in console.export_text().splitlines() if OP in line]
    assert len(lines) == 1
    assert lines[0].count("bits") >= 2
    assert evokern.which(OP, GENOMES) == "cpu"


def test_the_benchmark_runs(custom_op: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with mock.patch.object(sys, "path", [str(ROOT), *sys.path]):
        benchmark = importlib.import_module("examples.custom_op.benchmark")
        benchmark.main(["--quick"])
    output = capsys.readouterr().out
    assert "C++" in output
    assert "NumPy" in output
    assert "ns/gene" in output


def test_the_wheel_holds_the_headers(tmp_path: Path) -> None:
    commands = ["egg_info", "--egg-base", str(tmp_path), "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(
        [sys.executable, "setup.py", "-q", *commands],
        cwd=ROOT,
        env=os.environ | {"EVOKERN_CUDA": "0"},
        check=True,
    )
    include = tmp_path / "evokern" / "include"
    core = {path.name for path in (ROOT / "csrc" / "core").glob("*.h")}
    assert {path.name for path in (include / "core").iterdir()} == core
    assert {path.name for path in (include / "cuda").iterdir()} == {"device.h", "launch.h"}
    for path in include.rglob("*.h"):
        assert path.read_bytes() == (ROOT / "csrc" / path.relative_to(include)).read_bytes()
