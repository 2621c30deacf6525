"""Which back end an op runs on: by the arrays, by use_backend, by EVOKERN_BACKEND."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "simt"))

import interpreter
from standin import LIBRARY, OnHarness, copied

import build
import evokern
from evokern import _devices, ops
from evokern._table import TABLE, Op, add_op
from evokern.errors import ArgumentError, BackendError
from evokern.testing import assert_same_bits

F = np.float32
PLACE = {"tau": 0.25, "seed": 5, "generation": 3}


def no_cuda() -> None:
    raise BackendError("backend: cuda is not built")


@pytest.fixture
def host() -> OnHarness:
    """An array on a device of which no back end is known yet."""
    return OnHarness(np.linspace(0, 1, 9, dtype=F))


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that the CUDA kernels (on the harness) and the Triton kernels can use."""
    if reason := build.unavailable() or interpreter.unavailable():
        pytest.skip(reason)
    monkeypatch.setitem(_devices.LIBRARIES, "standin", LIBRARY)


TRITON_ONLY = {"triton": lambda: interpreter.HOST}


def use(monkeypatch: pytest.MonkeyPatch, natives: dict) -> None:
    device = replace(interpreter.DEVICE, natives=natives)
    library = replace(LIBRARY, device=lambda number: replace(device, number=number))
    monkeypatch.setitem(_devices.LIBRARIES, "standin", library)


def test_arrays_on_the_host_go_to_the_cpu_kernels() -> None:
    assert evokern.which("affine") == "cpu"
    assert evokern.which("mutate_sigma", np.ones(3, F)) == "cpu"


def test_use_backend_chooses_for_a_block() -> None:
    with evokern.use_backend("reference"):
        assert evokern.which("mutate_sigma", np.ones(3, F)) == "reference"
        with evokern.use_backend("auto"):
            assert evokern.which("affine") == "cpu"
        assert evokern.which("affine") == "reference"
    assert evokern.which("affine") == "cpu"


def test_back_ends_of_devices_are_not_chosen_for_the_host() -> None:
    with evokern.use_backend("triton"):
        assert evokern.which("mutate_sigma", np.ones(3, F)) == "cpu"
        ops.mutate_sigma(np.ones(3, F), **PLACE)


@pytest.mark.parametrize("name", ["numpy", "", "CPU"])
def test_unknown_back_ends_are_refused(name: str) -> None:
    with (
        pytest.raises(BackendError, match="name: expected auto or one of"),
        evokern.use_backend(name),
    ):
        pass


def test_unknown_ops_are_refused() -> None:
    with pytest.raises(BackendError, match=r"op: expected one of .*'affine'.* got 'fly'"):
        evokern.which("fly")


@pytest.mark.parametrize(
    ("name", "said"), [("reference", "reference\n"), ("", "cpu\n"), ("triton", "cpu\n")]
)
def test_the_variable_chooses_for_the_process(name: str, said: str, tmp_path: Path) -> None:
    code = "import evokern; print(evokern.which('affine'))"
    environment = os.environ | {"EVOKERN_BACKEND": name}
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, text=True, env=environment, cwd=tmp_path) == said


def test_a_wrong_variable_is_told(tmp_path: Path) -> None:
    code = "import evokern; evokern.which('affine')"
    environment = os.environ | {"EVOKERN_BACKEND": "gpu"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert "EVOKERN_BACKEND: expected auto or one of ['reference', 'cpu'" in run.stderr


@pytest.mark.simt
@pytest.mark.usefixtures("both")
def test_cuda_comes_before_triton_on_a_device() -> None:
    sigma = copied(np.linspace(0, 1, 9, dtype=F))
    assert evokern.which("mutate_sigma", sigma) == "cuda"
    with evokern.use_backend("triton"):
        assert evokern.which("mutate_sigma", sigma) == "triton"
        by_triton = ops.mutate_sigma(sigma, **PLACE)
    expected = ops.mutate_sigma(sigma.values, **PLACE)
    for result in (by_triton, ops.mutate_sigma(sigma, **PLACE)):
        assert_same_bits(result.values, expected)
    assert_same_bits(ops.mutate_sigma(sigma, backend="triton", **PLACE).values, expected)


@pytest.mark.triton
def test_triton_runs_where_cuda_was_not_built(monkeypatch, host) -> None:
    if reason := interpreter.unavailable():
        pytest.skip(reason)
    use(monkeypatch, {"cuda": no_cuda, **TRITON_ONLY})
    assert evokern.which("mutate_sigma", host) == "triton"
    result = ops.mutate_sigma(host, **PLACE)
    assert_same_bits(result.values, ops.mutate_sigma(host.values, **PLACE))
    with pytest.raises(BackendError, match="backend: cuda is not built"):
        ops.mutate_sigma(host, backend="cuda", **PLACE)


def test_a_device_without_back_ends_says_why(monkeypatch, host) -> None:
    def no_triton() -> None:
        raise BackendError("backend: triton is not installed")

    use(monkeypatch, {"cuda": no_cuda, "triton": no_triton})
    with pytest.raises(BackendError, match=r"cuda is not built; .*triton is not installed"):
        ops.mutate_sigma(host, **PLACE)


def test_back_ends_of_the_host_refuse_arrays_of_a_device(monkeypatch, host) -> None:
    use(monkeypatch, {"cuda": no_cuda})
    with pytest.raises(BackendError, match="sigma: expected an array on the host"):
        ops.mutate_sigma(host, backend="cpu", **PLACE)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("affine", {"reference": "a:b"}), "name: expected a name that no op has, got 'affine'"),
        (("polish", {"reference": "a:b", "gpu": "a:b"}), "functions: expected back ends of"),
        (("polish", {"reference": "a.b"}), "functions: expected module:function, got 'a.b'"),
        (("polish", {"cpu": "a:b"}), "functions: expected reference among them"),
    ],
)
def test_rows_that_are_none_are_refused(arguments, words) -> None:
    with pytest.raises(ArgumentError, match=words):
        add_op(*arguments)


def test_a_row_may_be_added_again(monkeypatch) -> None:
    monkeypatch.setitem(TABLE, "polish", Op({"reference": "a:b"}))
    add_op("polish", {"reference": "a:b"}, close=["reference"])
    assert TABLE["polish"].promise("reference") == "close"


def test_what_arrays_of_a_device_need_is_named(monkeypatch) -> None:
    for name in ("torch", "cupy"):
        monkeypatch.setitem(sys.modules, name, None)
    mend = r"install PyTorch \(evokern\[torch\]\) or CuPy on a machine with one"
    with pytest.raises(BackendError, match=mend):
        _devices.library_at("cuda")
