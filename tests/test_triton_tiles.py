"""The Triton kernels with the tiles of a GPU, some cases of each op, in Triton's interpreter.

Elsewhere the interpreter runs few programs with big tiles. Tiles are settled when the kernels are
imported, so that these cases run in a process of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import interpreter
import pytest

pytestmark = pytest.mark.triton
if reason := interpreter.unavailable():
    pytest.skip(reason, allow_module_level=True)

SAME_BITS = "test_same_bits_as_the_reference"
CLOSE = "test_within_the_error_bound"

CASES = {
    ("init_genomes", SAME_BITS): ("lecun_normal, 17 genes", "unit_rows, all kinds"),
    ("mutate_sigma", SAME_BITS): ("257",),
    ("crossover_mutate", SAME_BITS): (
        "257 genes, uniform",
        "rows, normal, 3, 0.3, 0.3",
        "uniform, cauchy, 2, 0.3, 0.3",
        "arithmetic, uniform, 5, 0.3, 1.0",
        "all kinds, rows, two parents",
        "out one float off, uniform",
        "17 slots",
    ),
    ("replay", SAME_BITS): (
        "rows, normal, 3, 0.3, 0.3",
        "uniform, unit_rows",
        "all kinds, unit_rows, chains",
        "17 individuals",
        "late",
    ),
    ("nes_sample", SAME_BITS): ("17 samples", "shape (3, 257)"),
    ("nes_update", SAME_BITS): ("255 samples", "shape (3, 257), keep", "in place, odd rows"),
    ("dense_forward", CLOSE): (
        "129 inputs",
        "4096 to 7",
        "129 to 1000",
        "batch 3",
        "17 outputs, batch 7",
        "17 outputs, batch 35",
        "batch 130",
        "bf16, 129 to 5",
        "17 slots, shared=False",
        "reversed rows, shared=True",
    ),
    ("conv2d_forward", CLOSE): (
        "plain, shared=False",
        "strided, special, shared=True",
        "batch 33, shared=False",
        "65 outputs",
        "17 outputs",
    ),
    ("max_pool2d", SAME_BITS): ("((3, 2), (1, 2), (1, 1)), special_numbers, {}",),
    ("avg_pool2d", SAME_BITS): ("(3, 2, 1), numbers, {'count_include_pad': False}",),
    ("global_avg_pool", SAME_BITS): ("(2, 3, 4, 5)", "(17, 65, 2, 3)"),
    ("affine", SAME_BITS): ("(2, 1, 3, 5, 4)", "(3, 2, 257)"),
    ("residual", SAME_BITS): ("(2, 3, 4, 5, 2)", "3 floats off"),
    ("network_forward", CLOSE): (
        "thesis, shared=True, fp32",
        "whole thesis, shared=True, fp32",
        "whole thesis, shared=False, bf16",
        "batch 33, shared=True",
        "batch 65, shared=False",
        "elmans, 17 slots",
        "residual images, shared=True, fp32",
        "nature",
    ),
    ("network_loss", CLOSE): (
        "whole thesis, cross_entropy",
        "thesis, mse",
        "26 classes, 3 hidden, batch 33",
        "batch 65, cross_entropy",
        "special_numbers as logits, mse, classes",
    ),
}


def test_tiles_of_a_gpu() -> None:
    ids = [
        f"test_ops_parity.py::{test}[{op}-{name}-{interpreter.NAME}]"
        for (op, test), names in CASES.items()
        for name in names
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *ids]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parent,
        env={**os.environ, "EVOKERN_TRITON_TILES": "device", "EVOKERN_SIMT": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ids)} passed" in done.stdout
