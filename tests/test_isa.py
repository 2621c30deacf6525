"""EVOKERN_ISA, fork() and the one OpenMP runtime, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cases import instruction_set

import evokern
from evokern import _cpu
from evokern.backends.cpu import use_instruction_set
from evokern.errors import BackendError

FOLDER = Path(evokern.__file__).parents[1]
SUPPORTED = _cpu.supported_instruction_sets()
LACKING = [name for name in _cpu.built_instruction_sets() if name not in SUPPORTED]

OP = """
import numpy as np
from evokern import Network, ops
network = Network.mlp(30, [40], 10)
genomes = ops.init_genomes(network.layout, 64, seed=1)
x = np.ones((100, 30), np.float32)
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=FOLDER,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def printed(code: str, **environment: str) -> str:
    done = run(code, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", SUPPORTED)
def test_the_environment_chooses_the_instruction_set(name: str) -> None:
    code = "import evokern; print(evokern._cpu.instruction_set(), evokern._cpu.lanes())"
    lanes = {"baseline": 1, "avx2": 8, "avx512": 16, "avx512_bf16": 16}[name]
    assert printed(code, EVOKERN_ISA=name) == f"{name} {lanes}"


def test_the_widest_instruction_set_is_the_default() -> None:
    code = "import evokern; print(evokern._cpu.instruction_set())"
    assert printed(code, EVOKERN_ISA="") == SUPPORTED[-1]


@pytest.mark.parametrize(
    ("name", "why"),
    [("sse9", "it is unknown"), *((name, "this processor lacks it") for name in LACKING)],
)
def test_an_instruction_set_that_is_not_there_is_an_error(name: str, why: str) -> None:
    message = f"EVOKERN_ISA: {name!r}: {why}; there are {', '.join(SUPPORTED)}"
    done = run("import evokern", EVOKERN_ISA=name)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"evokern.errors.BackendError: {message}"
    before = _cpu.instruction_set()
    with pytest.raises(BackendError) as error:
        use_instruction_set(name)
    assert str(error.value) == message
    assert _cpu.instruction_set() == before


def test_the_instruction_set_can_be_changed_while_running() -> None:
    for name in SUPPORTED:
        with instruction_set(name):
            assert _cpu.instruction_set() == name
            assert use_instruction_set() == SUPPORTED[-1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork() here")
def test_a_forked_child_computes_the_same() -> None:
    code = f"""
import os, sys, evokern
evokern.set_threads(2)
{OP}
before = ops.network_forward(genomes, network, x)
child = os.fork()
if child == 0:
    same = (ops.network_forward(genomes, network, x) == before).all()
    os._exit(0 if same and evokern._cpu.threads() == 1 else 1)
_, status = os.waitpid(child, 0)
assert evokern._cpu.threads() == 2
print(os.waitstatus_to_exitcode(status))
"""
    assert printed(code) == "0"


@pytest.mark.torch
@pytest.mark.parametrize("order", ["torch, evokern", "evokern, torch"])
def test_torch_and_evokern_share_one_openmp_runtime(order: str) -> None:
    pytest.importorskip("torch")
    if not Path("/proc/self/maps").exists():
        pytest.skip("there is no /proc here")
    code = f"""
import {order}
{OP}
ops.network_forward(genomes, network, x)
(torch.ones(300, 300) @ torch.ones(300, 300)).sum()
torch.set_num_threads(3)
lines = open("/proc/self/maps").read().splitlines()
print(len({{line.split()[-1] for line in lines if "libgomp" in line}}), evokern._cpu.threads())
"""
    assert printed(code) == "1 3"


def test_the_number_of_threads_holds_for_other_python_threads_too() -> None:
    counts = []
    before = _cpu.threads()
    try:
        evokern.set_threads(5)
        thread = threading.Thread(target=lambda: counts.append(_cpu.threads()))
        thread.start()
        thread.join()
    finally:
        evokern.set_threads(before)
    assert counts == [5]
