"""Which back ends tests run an op on."""

from __future__ import annotations

from evokern._table import ON_DEVICE, TABLE


def host_backends(op: str) -> list[str]:
    """The back ends that compute ``op`` on arrays of the host."""
    return [backend for backend in TABLE[op].functions if backend not in ON_DEVICE]
