"""Real data sets for tests, from the data cache only."""

from __future__ import annotations

from typing import Any

import pytest

from evokern.errors import DataError
from evokern.problems import datasets


def require_data(name: str) -> Any:
    """The data set ``name`` of the data cache; skips the test where it is not there."""
    try:
        return datasets.load(name, download=False)
    except DataError as error:
        pytest.skip(f"not in the data cache (make data): {error}")
