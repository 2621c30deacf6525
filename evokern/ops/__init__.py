"""The public operations on populations: checks, then the kernel of the chosen back end.

Arrays may be NumPy, torch or anything with DLPack on the host, or torch and CuPy on a CUDA device;
results come back as the caller's kind without a copy. The last axis must be contiguous, other
strides are free. What has one number per individual (parents, sigma, index, classes) is on the host
always; on a device the ops do not wait and so do not look at values there. All ops take
``backend="auto" | "reference" | "cpu" | "cuda" | "triton"`` and, where it makes sense, ``out=``.

Shapes: **P** population, **G** genes, **S** slots (what one call evaluates), **B** batch, **R**
parents, **I/O** features in and out, **C H W** channels, height, width, **N** assigned layers,
**K** choices of each.

Errors: DtypeError, ShapeError, LayoutError, ArgumentError, BackendError, MemoryLimitError, each
naming the argument, what was expected, what came and the mend.
"""

from evokern.ops.categorical import nes_sample, nes_update
from evokern.ops.layers import (
    affine,
    avg_pool2d,
    conv2d_forward,
    dense_forward,
    global_avg_pool,
    max_pool2d,
    residual,
)
from evokern.ops.mutants import mutant_loss
from evokern.ops.network import network_forward, network_loss, workspace_bytes
from evokern.ops.variation import crossover_mutate, init_genomes, mutate_sigma, replay

__all__ = [
    "affine",
    "avg_pool2d",
    "conv2d_forward",
    "crossover_mutate",
    "dense_forward",
    "global_avg_pool",
    "init_genomes",
    "max_pool2d",
    "mutant_loss",
    "mutate_sigma",
    "nes_sample",
    "nes_update",
    "network_forward",
    "network_loss",
    "replay",
    "residual",
    "workspace_bytes",
]
