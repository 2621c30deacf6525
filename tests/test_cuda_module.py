"""evokern._cuda where it was built: imported without a driver, it says so and does not crash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evokern import _devices
from evokern.errors import BackendError

cuda = pytest.importorskip("evokern._cuda", reason="evokern._cuda is built where nvcc is")
COUNT, REASON = cuda.device_count()
without_gpu = pytest.mark.skipif(COUNT > 0, reason="there is a GPU")


def test_it_has_every_kernel_function_of_the_bindings() -> None:
    names = {
        *("init_genomes", "crossover_mutate", "mutate_sigma", "replay", "nes_sample", "nes_update"),
        *("network_forward", "network_loss", "fused_tile", "pool2d", "affine", "residual"),
    }
    assert names <= set(dir(cuda))


def test_it_needs_no_library_of_cuda() -> None:
    needed = subprocess.run(["ldd", str(cuda.__file__)], capture_output=True, text=True, check=True)
    assert "cuda" not in needed.stdout.replace(Path(str(cuda.__file__)).name, "")


@without_gpu
def test_without_a_driver_it_says_why() -> None:
    assert REASON
    assert _devices.why_not("cuda") == f"built, but CUDA says: {REASON}"
    with pytest.raises(BackendError, match="CUDA says"):
        cuda.select_device(0)
    with pytest.raises(BackendError, match="fused_tile: CUDA says"):
        cuda.fused_tile(256, 512)


@without_gpu
def test_without_a_driver_calls_fail_and_the_process_lives_on() -> None:
    """In a process of its own: a crash would otherwise end the tests."""
    code = (
        "import numpy as np\n"
        "from evokern import _cuda\n"
        "from evokern.errors import BackendError\n"
        "try:\n"
        "    _cuda.upload(4096, np.zeros(8, np.uint8), 0)\n"
        "except BackendError as error:\n"
        "    print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("upload: CUDA says: ")


@without_gpu
def test_kernels_cannot_be_launched_without_a_driver() -> None:
    class Memory:
        __cuda_array_interface__ = np.ones(3, np.float32).__array_interface__

    with pytest.raises(BackendError, match="mutate_sigma: CUDA says"):
        cuda.mutate_sigma(Memory(), Memory(), 0.1, 1, 1, 0, 0)
