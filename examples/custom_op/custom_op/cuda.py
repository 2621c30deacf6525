"""The CUDA kernel, on the caller's device and stream."""

from __future__ import annotations

from typing import Any

from custom_op import _cuda
from evokern.errors import BackendError
from evokern.extension import Block, current_device


def laplace_mutate(
    genomes: Any, sigma: Any, *, seed: int, generation: int, first: int, out: Any
) -> None:
    """See ``custom_op.laplace_mutate``; genomes and out are on the device."""
    device, block = current_device(), Block()
    offset = block.add(sigma)
    strength = block.upload(device) + offset
    failure = _cuda.laplace_mutate(
        *_memory(genomes),
        strength,
        *_memory(out),
        *genomes.shape,
        seed,
        generation,
        first,
        device.stream,
    )
    if failure is not None:
        raise BackendError(f"laplace_mutate: CUDA says: {failure}")


def _memory(array: Any) -> tuple[int, int]:
    """Address, and elements from row to row."""
    return array.__cuda_array_interface__["data"][0], array.strides[0] // array.itemsize
