"""Every op's cases of the tests on a device: the bits of the CPU kernels on the host.

Where Triton's kernels promise no bits, their results are within the error bound.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.gpu.arrays import NotPossible, moved_call
from benchmarks.gpu.report import TESTS, Budget, Rows, Verdict, backends_on, importable
from evokern import _devices, ops
from evokern.testing import assert_same_bits, fill_outputs_with_nan

COLUMNS = ("backend", "op", "case", "outcome", "detail")

EQUAL, WITHIN, DIFFERENT, FAILED, LEFT_OUT = (
    *("equal", "within the bound", "different", "failed"),
    "left out",
)

NO_BF16 = "bf16: the CUDA kernels compute in fp32"
NOT_INT64 = "labels on a device are int64"
NO_TIME = "out of time"


def run(device: str, rows: Rows, budget: Budget, sample: int = 0) -> Verdict:
    """Writes a row per case; with ``sample`` about so many cases of each op.

    A case that fails may leave the device useless, so that all that follow fail.
    """
    counts: Counter[str] = Counter()
    for backend in backends_on(device):
        for op, cases in _cases().items():
            for case in _some(cases, sample):
                outcome, detail = LEFT_OUT, NO_TIME
                if budget.left() > 0:
                    outcome, detail = _compared(device, backend, case)
                rows.write(backend=backend, op=op, case=case.name, outcome=outcome, detail=detail)
                counts[outcome] += 1
    outcomes = (EQUAL, WITHIN, DIFFERENT, FAILED, LEFT_OUT)
    text = ", ".join(f"{counts[name]} {name}" for name in outcomes)
    return Verdict(counts[EQUAL] > 0 and not counts[DIFFERENT] + counts[FAILED], text)


def _cases() -> dict[str, list[Any]]:
    """tests/cases_*.py."""
    importable(TESTS)
    import cases_categorical
    import cases_lineage
    import cases_network
    import cases_variation

    cases: dict[str, list[Any]] = {}
    for module in (cases_variation, cases_lineage, cases_network, cases_categorical):
        for table in (module.CASES, getattr(module, "FORMS", {})):
            for op, some in table.items():
                cases.setdefault(op, []).extend(some)
    return cases


def _some(cases: list[Any], sample: int) -> list[Any]:
    """Spread evenly over the list."""
    return cases[:: max(1, len(cases) // sample)] if sample else cases


def _compared(device: str, backend: str, case: Any) -> tuple[str, str]:
    """Outcome and detail."""
    importable(TESTS)
    import bounds

    if case.options.get("precision") == "bf16" and backend == "cuda":
        return LEFT_OUT, NO_BF16
    if np.dtype(case.options.get("label_type", np.int64)) != np.int64:
        return LEFT_OUT, NOT_INT64
    bits = bounds.promises_bits(case, backend)
    with fill_outputs_with_nan():
        expected = case.run("cpu") if bits else ()
    try:
        moved = moved_call(device, case.op, *case.make())
        with _nan_in_new_arrays():
            results = _called(device, backend, case.op, moved)
        found = tuple(_devices.to_host(result) for result in results)
    except NotPossible as error:
        return LEFT_OUT, str(error)
    except Exception as error:
        return FAILED, f"{type(error).__name__}: {error}"
    try:
        if not bits:
            bounds.assert_within_bounds(case, found)
            return WITHIN, ""
        for actual, wanted in zip(found, expected, strict=True):
            assert_same_bits(actual, wanted)
    except AssertionError as error:
        return DIFFERENT, str(error)
    return EQUAL, ""


def _called(device: str, backend: str, op: str, call: dict[str, Any]) -> tuple[Any, ...]:
    """The results on the device."""
    if op in ("init_genomes", "replay") and "out" not in call:
        # Nothing else says that the result is to be on the device.
        count = call["n"] if op == "init_genomes" else len(call["lineages"])
        shape = (count, call["layout"].size)
        call = call | {"out": _devices.from_host(device, np.full(shape, np.nan, np.float32))}
    # Sigma lives on the host, where ops can look at its numbers; its kernel takes any.
    with (
        mock.patch("evokern.ops.variation.non_negative") if op == "mutate_sigma" else nullcontext()
    ):
        result = getattr(ops, op)(**call, backend=backend)
    return result if isinstance(result, tuple) else (result,)


@contextmanager
def _nan_in_new_arrays() -> Iterator[None]:
    """So that an element which no kernel writes is seen."""
    new = _devices.new

    def filled(like: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        array = new(like, shape, dtype)
        nothing = np.nan if array.dtype.kind == "f" else np.iinfo(array.dtype).min
        _devices.write(array.owner, np.full(shape, nothing, dtype))
        return array

    with mock.patch.object(_devices, "new", filled):
        yield
