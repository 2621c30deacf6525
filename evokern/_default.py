"""What ``backend="auto"`` means: by where arrays are, by EVOKERN_BACKEND and ``use_backend``."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

from evokern._table import BACKENDS, ON_DEVICE, TABLE
from evokern.backends.device import Device
from evokern.errors import BackendError, message

logger = logging.getLogger(__name__)

_chosen: ContextVar[str] = ContextVar(
    "backend", default=os.environ.get("EVOKERN_BACKEND") or "auto"
)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Lets ``backend="auto"`` mean ``name`` in the block, for arrays that are where it works.

    ``cpu`` and ``reference`` are chosen for arrays on the host, ``cuda`` and ``triton`` for those
    on a device; arrays elsewhere keep their back end, and nothing is copied. The environment
    variable EVOKERN_BACKEND, read at import, does the same for the whole process.

    Raises:
        BackendError: there is no such back end.
    """
    token = _chosen.set(_known("name", name))
    try:
        yield
    finally:
        _chosen.reset(token)


def host_backend(op: str) -> str:
    """What ``auto`` is for arrays on the host: the CPU kernels unless another one is chosen."""
    chosen = chosen_backend()
    return chosen if chosen != "auto" and chosen not in ON_DEVICE else _told(op, "cpu")


def device_backend(op: str, device: Device) -> str:
    """What ``auto`` is on a device: what is chosen, else CUDA where it was built, else Triton.

    Raises BackendError where neither can run, with the reasons.
    """
    chosen = chosen_backend()
    if chosen in ON_DEVICE:
        return chosen
    reasons = []
    for name, native in device.natives.items():
        if name in TABLE[op].functions:
            try:
                native()
            except BackendError as error:
                reasons.append(str(error))
                continue
            return _told(op, name)
    raise BackendError("; ".join(reasons) or f"backend: {op} runs on no device")


def chosen_backend() -> str:
    """What ``use_backend`` or EVOKERN_BACKEND says, or ``auto``. Raises BackendError."""
    chosen = _chosen.get()
    return chosen if chosen == "auto" else _known("EVOKERN_BACKEND", chosen)


def _known(argument: str, name: str) -> str:
    if name not in ("auto", *BACKENDS):
        raise BackendError(message(argument, f"auto or one of {list(BACKENDS)}", repr(name)))
    return name


@cache
def _told(op: str, name: str) -> str:
    """The name, after logging it the first time."""
    logger.info("%s: backend auto is %s", op, name)
    return name
