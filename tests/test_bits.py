"""Frozen bits: every rule of variation in a few genes, and a whole run in one hash.

A change here breaks every stored seed and lineage (docs/bits.md): the counter layout is a
public contract.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from backends import host_backends
from cases import INSTRUCTION_SETS, SEED, F, instruction_set, threads

from evokern import ops
from evokern.backends.reference.random import Stream, draw_index, draw_words, selection_words
from evokern.layout import DenseGenes, GenomeLayout
from evokern.network import Dense, Flatten, MaxPool2d, Network

LAYOUT = GenomeLayout((DenseGenes(2, 2), DenseGenes(2, 1)))
GENOMES = np.array([np.arange(9), 16 + np.arange(9), 1024 * np.arange(9)], F)
PARENTS = np.array([[0, 2], [1, 0], [2, 1]], np.int32)

# Computed once by the reference. Every slot is a line (sigma: one line for three slots).
BITS = {
    "init_genomes scheme=glorot_uniform": """
        3f11cbe9 3f60187a bdb41d81 bf354776 00000000 00000000 3f06e146 3e6e688d 00000000
        bf5cf22a bf31993d 3eadcc44 3f11a284 00000000 00000000 bf59ca16 3f954863 00000000
    """,
    "init_genomes scheme=he_uniform": """
        3f4e2ffa 3f9e75a3 bdfeb8ae bf802f07 00000000 00000000 3f25318c 3e91fea7 00000000
        bf9c3b7d bf7b298e 3ef5c990 3f4df570 00000000 00000000 bf855e44 3fb6d553 00000000
    """,
    "init_genomes scheme=lecun_normal": """
        bd7ca207 bf0df45e 3f40680b 3ee68f35 00000000 00000000 bf17758b 3e267f45 00000000
        3f946764 3f410cc5 bf05f8b5 bed5f6b7 00000000 00000000 3e972da1 bf9e2106 00000000
    """,
    "init_genomes scheme=unit_rows": """
        bda780ce bf46b9a5 3f7f2471 3f2161ea 00000000 00000000 bf76d90b 3e87ada9 00000000
        3f6954eb 3f5fea87 bed2a3db bef82c81 00000000 00000000 3e6e0ada bf78fca8 00000000
    """,
    "init_genomes scheme=torch": """
        3ea859f0 3f0161b4 bd4ffaaa bed152b7 3e7f5dbf bf20e150 3e86e146 3dee688d bdffab65
        beff205c becd12bc 3e48af3d 3ea82a24 3d94bf1d 3f1f2470 bed9ca16 3f154863 beee0767
    """,
    "crossover kind=uniform": """
        00000000 3f800000 40000000 45400000 45800000 40a00000 41b00000 45e00000 41000000
        00000000 44800000 45000000 41980000 41a00000 41a80000 45c00000 45e00000 41000000
    """,
    "crossover kind=arithmetic": """
        40aaaaab 43adaaab 442c5556 4480eaab 44abaaab 44d66aab 45009555 4515f556 452b5556
        40aaaaab 43adaaab 442c5556 4480eaab 44abaaab 44d66aab 45009555 4515f556 452b5556
    """,
    "crossover kind=rows": """
        00000000 3f800000 45000000 40400000 45800000 40a00000 40c00000 40e00000 41000000
        00000000 44800000 45000000 45400000 45800000 45a00000 45c00000 45e00000 46000000
    """,
    "crossover kind=none": """
        00000000 3f800000 40000000 40400000 40800000 40a00000 40c00000 40e00000 41000000
        00000000 44800000 45000000 45400000 45800000 45a00000 45c00000 45e00000 46000000
    """,
    "mutation distribution=normal": """
        3e25cbc9 3f61799e 3fd22770 402d3dd9 409f4e77 40ae2ebd 40b5f0d9 40ce994e 40faf07d
        00000000 44800000 45000000 45400000 45800000 45a00000 45c00000 45e00000 46000000
    """,
    "mutation distribution=uniform": """
        3ed83a0e 3f06231d 4009b320 404efc54 40665eff 40962a97 40be897a 40e954a0 410736af
        00000000 44800000 45000000 45400000 45800000 45a00000 45c00000 45e00000 46000000
    """,
    "mutation distribution=cauchy": """
        bfd0e297 3f21bc2a 400563d1 405a2fb6 407ad6a9 40a73f95 40a2951c 40fbad94 40e1024b
        00000000 44800000 45000000 45400000 45800000 45a00000 45c00000 45e00000 46000000
    """,
    "mutation mutation_rate=0.4": """
        3e25cbc9 3f61799e 40000000 402d3dd9 409f4e77 40a00000 40c00000 40ce994e 40faf07d
        00000000 44800000 45000000 45400000 45800000 45a00000 45c00000 45e00000 46000000
    """,
    "mutate_sigma": """
        3f0ba3ad 2b800000 44800000
    """,
}


@pytest.fixture(params=INSTRUCTION_SETS, scope="module")
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    with instruction_set(request.param):
        yield request.param


def compute(rule: str, backend: str) -> np.ndarray:
    """What an op gives for the option that the rule's name holds."""
    op, _, option = rule.partition(" ")
    chosen: dict[str, Any] = dict([option.split("=")] if option else [])
    place = {"seed": SEED, "first": 2**32 - 1, "backend": backend}
    if op == "init_genomes":
        return ops.init_genomes(LAYOUT, 2, **chosen, **place)
    place |= {"generation": 77}
    if op == "mutate_sigma":
        return ops.mutate_sigma(np.array([0.5, 1e-13, 1000], F), tau=0.25, **place)
    if "mutation_rate" in chosen:
        chosen["mutation_rate"] = float(chosen["mutation_rate"])
    options = {"kind": "none", "layout": LAYOUT} | chosen
    parents, sigma = (PARENTS, [0, 0]) if op == "crossover" else (PARENTS[:1], [0.5, 0])
    return ops.crossover_mutate(GENOMES, parents, np.array(sigma, F), **options, **place)


@pytest.mark.cpp
@pytest.mark.parametrize("rule", BITS)
def test_frozen_bits_of_variation(rule: str, isa: str) -> None:
    for backend in host_backends("crossover_mutate"):
        words = compute(rule, backend).view(np.uint32).ravel()
        assert [f"{word:08x}" for word in words] == BITS[rule].split(), backend


@pytest.mark.cpp
def test_the_kernels_draw_the_known_words_of_philox(isa: str) -> None:
    """6627e8d5 e169c58d bc57ac4c 9b00dbd8 for counter 0 and key 0; deviates show 24 bits each."""
    layout = GenomeLayout((DenseGenes(1, 2),))
    deviates = ops.init_genomes(layout, 1, scheme="torch", seed=0, backend="cpu")[0]
    words = [int(deviate) for deviate in deviates.astype(float) * 2**23 + 2**23]
    assert [f"{word:06x}" for word in words] == ["6627e8", "e169c5", "bc57ac", "9b00db"]


@pytest.mark.cpp
def test_the_kernels_draw_the_normals_of_the_contract(isa: str) -> None:
    genomes, parents = np.zeros((1, 1 << 22), F), np.zeros((1, 1), np.int32)
    normals = ops.crossover_mutate(
        genomes, parents, np.ones(1, F), seed=42 + (1 << 32), generation=7, backend="cpu"
    )
    assert hashlib.sha256(normals.tobytes()).hexdigest().startswith("a62993ac87316374")


POPULATION, BATCH, GENERATIONS = 24, 32, 20
HIDDEN = (Dense(256, "relu"), Dense(128, "relu"), Dense(64, "relu"))
THESIS = Network((MaxPool2d(2), Flatten(), *HIDDEN, Dense(10)), (1, 28, 28))


def images(generation: int) -> tuple[np.ndarray, np.ndarray]:
    """A batch of bytes / 255 [BATCH, 1, 28, 28] whose label is where the bright band lies."""
    words = draw_words(
        Stream.USER, BATCH * 28 * 28, seed=SEED, individual=0, generation=generation
    ).reshape(BATCH, 28, 28)
    labels = np.arange(BATCH) % 10
    bright = np.arange(28) // 3 % 10 == labels[:, None]
    pixels = (words >> 24) // np.where(bright, 1, 4)[:, :, None]
    return (pixels[:, None].astype(F) / F(255)), labels


def evolve(backend: str) -> list[str]:
    """SHA-256 of all genomes and losses up to every generation of an evolutionary run."""
    place: dict[str, Any] = {"seed": SEED, "backend": backend}
    genomes = ops.init_genomes(THESIS.layout, POPULATION, **place)
    digest, history = hashlib.sha256(), []
    for generation in range(GENERATIONS):
        x, y = images(generation)
        loss, _ = ops.network_loss(genomes, THESIS, x, y, backend=backend)
        digest.update(genomes.tobytes() + loss.tobytes())
        history.append(digest.hexdigest())
        order = np.argsort(loss, kind="stable")  # NaN comes last
        words = selection_words(2, POPULATION, seed=SEED, generation=generation)
        chosen = draw_index(words, POPULATION // 2)
        parents = np.ascontiguousarray(order[chosen], np.int32)
        sigma = np.full(POPULATION, 0.02, F)
        parents[:, :2], sigma[:2] = order[:2], 0  # elites
        genomes = ops.crossover_mutate(genomes, parents, sigma, generation=generation, **place)
    return history


# How the hash of each generation begins, and the last one in full.
HISTORY = """
    1b5e6655 b1f0a5e2 08b900cb a190823b 13f3a169 97c61d98 352d125d 8f7d160d de8ee672 b14fc154
    3b9f1bf2 188aac32 7f2072fe f4ba60ff f96babf4 6ecf7103 45a1a2f3 85b8470e 5be78a74 21cf1797
"""
LAST = "21cf17972fc1af6add460ebfefcc2adcc74a428fe910097d7ed7f5e12249369f"


def assert_frozen(history: list[str]) -> None:
    assert [digest[:8] for digest in history] == HISTORY.split()
    assert history[-1] == LAST


def test_frozen_bits_of_a_run_of_the_reference() -> None:
    assert_frozen(evolve("reference"))


@pytest.mark.cpp
@pytest.mark.parametrize("count", [1, 2, 7])
def test_frozen_bits_of_a_run_of_the_kernels(isa: str, count: int) -> None:
    with threads(count):
        assert_frozen(evolve("cpu"))
