"""What does not fit the memory is refused before it is taken."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from cases import F, numbers

from evokern import memory, ops
from evokern.errors import MemoryLimitError
from evokern.layout import DenseGenes, GenomeLayout


@contextmanager
def little_memory(monkeypatch: pytest.MonkeyPatch, available: int) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(memory, "available_bytes", lambda: available)
        yield


def test_a_population_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = GenomeLayout((DenseGenes(999, 250),))
    gigabyte = 10**9
    with little_memory(monkeypatch, gigabyte):
        words = "out [n, G]: 2.00 GB asked, 1.00 GB there; 1000 of 2000 individuals would fit"
        with pytest.raises(MemoryLimitError, match=re.escape(words)):
            ops.init_genomes(layout, 2000, seed=1)
        genomes = numbers(2, layout.size)
        options = {"seed": 1, "generation": 0}
        words = "out [S, G]: 3.00 GB asked, 1.00 GB there; 1000 of 3000 individuals would fit"
        with pytest.raises(MemoryLimitError, match=re.escape(words)):
            ops.crossover_mutate(
                genomes, np.zeros((1, 3000), np.int32), np.zeros(3000, F), **options
            )
        words = "out [S, B, O]: 1.20 GB asked, 1.00 GB there; use fewer individuals or a smaller"
        with pytest.raises(MemoryLimitError, match=re.escape(words)):
            ops.dense_forward(
                numbers(1000, 2),
                numbers(1, 2, 300),
                numbers(1, 300),
                index=np.zeros(1000, np.int32),
            )


def test_memory_that_is_there_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    with little_memory(monkeypatch, 0):
        assert ops.init_genomes(GenomeLayout((DenseGenes(2, 3),)), 100, seed=1).shape == (100, 9)
    memory.check_fits(100, "x", available=100)
    with pytest.raises(MemoryLimitError, match=r"x: 0\.00 GB asked, 0\.00 GB there; use"):
        memory.check_fits(101, "x", available=100)


def test_what_the_machine_has_left_is_the_least_of_its_limits(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable: 4000 kB\n")
    nothing = tmp_path / "none"
    assert memory.available_bytes(meminfo, nothing) == 4000 * 1024
    assert memory.available_bytes(nothing, nothing) is None
    second = tmp_path / "second"
    second.mkdir()
    (second / "memory.max").write_text("3000000\n")
    (second / "memory.current").write_text("1000000\n")
    assert memory.available_bytes(meminfo, second) == 2000000
    (second / "memory.max").write_text("max\n")
    assert memory.available_bytes(meminfo, second) == 4000 * 1024
    first = tmp_path / "first"
    (first / "memory").mkdir(parents=True)
    (first / "memory/memory.limit_in_bytes").write_text("500\n")
    (first / "memory/memory.usage_in_bytes").write_text("600\n")
    assert memory.available_bytes(meminfo, first) == 0


def test_cached_files_are_no_used_memory(tmp_path: Path) -> None:
    nothing = tmp_path / "none"
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("2500\n")
    (tmp_path / "memory.stat").write_text("anon 100\ninactive_file 2000\nactive_file 300\n")
    assert memory.available_bytes(nothing, tmp_path) == 2500
    (tmp_path / "memory.stat").write_text("inactive_file 9000\n")  # read at another moment
    assert memory.available_bytes(nothing, tmp_path) == 3000
    for text in ("", "anon 100\n", "inactive_file\n", "inactive_file many\n"):
        (tmp_path / "memory.stat").write_text(text)
        assert memory.available_bytes(nothing, tmp_path) == 500
    (tmp_path / "memory.max").unlink()
    (tmp_path / "memory/memory.limit_in_bytes").write_text("3000\n")
    (tmp_path / "memory/memory.usage_in_bytes").write_text("2500\n")
    stat = "inactive_file 100\ntotal_inactive_file 400\n"
    (tmp_path / "memory/memory.stat").write_text(stat)
    assert memory.available_bytes(nothing, tmp_path) == 900
