"""What holds for the ops whatever the numbers, on every back end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import interpreter
import numpy as np
import pytest
from backends import host_backends
from cases import MEMORY, F, numbers, special_numbers, threads
from hypothesis import given
from hypothesis import strategies as st

from evokern import ops
from evokern.errors import ShapeError
from evokern.layout import DenseGenes, GenomeLayout
from evokern.network import Activation, AvgPool2d, Dense, Flatten, MaxPool2d, Network
from evokern.rules import CROSSOVER_KINDS, DISTRIBUTIONS, INIT_SCHEMES
from evokern.testing import assert_same_bits

pytestmark = pytest.mark.cpp


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with threads(1):  # the calls are small, and OpenMP's threads would wait most of the time
        yield


# Triton's interpreter takes a tenth of a second for what the others do in no time.
each_backend = pytest.mark.parametrize(
    "backend", [name for name in host_backends("crossover_mutate") if name != interpreter.NAME]
)
shares = st.floats(0, 1, width=32)
blocks = st.builds(DenseGenes, st.integers(1, 9), st.integers(1, 40))
layouts = st.builds(GenomeLayout, st.lists(blocks, min_size=1, max_size=3).map(tuple))
places = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**64 - 1),
        "generation": st.integers(0, 2**32 - 1),
        "first": st.integers(0, 2**32 - 1),
    }
)

NETWORKS = [
    Network((Dense(9, "relu"), Dense(3)), (5,)),
    Network((MaxPool2d(2), Flatten(), Dense(4, "tanh"), Activation("gelu")), (2, 4, 5)),
    Network((AvgPool2d(2, 1),), (1, 4, 3)),
]


@st.composite
def variations(draw: st.DrawFn, kinds: tuple[str, ...] = CROSSOVER_KINDS) -> dict[str, Any]:
    """Arguments of crossover_mutate."""
    layout = draw(layouts)
    population, parents, slots = (draw(st.integers(1, most)) for most in (5, 4, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return {
        "genomes": rng.standard_normal((population, layout.size), F),
        "parents": rng.integers(0, population, (parents, slots), np.int32),
        "sigma": rng.random(slots, F) * rng.integers(0, 2, slots).astype(F),
        "kind": draw(st.sampled_from(kinds)),
        "rate": draw(shares),
        "mutation_rate": draw(shares),
        "distribution": draw(st.sampled_from(DISTRIBUTIONS)),
        "layout": layout,
        **draw(places),
    }


def part_of(arguments: dict[str, Any], start: int, end: int) -> dict[str, Any]:
    """The arguments for slots ``start`` to ``end``."""
    return arguments | {
        "parents": arguments["parents"][:, start:end],
        "sigma": arguments["sigma"][start:end],
        "first": (arguments["first"] + start) % 2**32,
    }


@each_backend
@given(variations(kinds=("uniform", "rows", "none")))
def test_without_mutation_every_gene_is_a_parents_gene(
    backend: str, arguments: dict[str, Any]
) -> None:
    arguments["sigma"][:] = 0
    child = ops.crossover_mutate(**arguments, backend=backend)
    candidates = arguments["genomes"][arguments["parents"]]
    assert (child == candidates).any(axis=0).all()


@each_backend
@given(variations(kinds=("rows",)))
def test_rows_move_whole_units(backend: str, arguments: dict[str, Any]) -> None:
    arguments["sigma"][:] = 0
    layout = arguments["layout"]
    child = ops.crossover_mutate(**arguments, backend=backend)
    same = child == arguments["genomes"][arguments["parents"]]
    for unit in range(layout.units):
        genes = layout.unit_of_gene == unit
        assert same[..., genes].all(axis=-1).any(axis=0).all()


@each_backend
@given(variations(), st.integers(0, 2**32))
def test_the_numbers_of_the_parents_do_not_matter(
    backend: str, arguments: dict[str, Any], seed: int
) -> None:
    order = np.random.default_rng(seed).permutation(len(arguments["genomes"]))
    renumbered = arguments | {
        "genomes": arguments["genomes"][order],
        "parents": np.argsort(order).astype(np.int32)[arguments["parents"]],
    }
    assert_same_bits(
        ops.crossover_mutate(**renumbered, backend=backend),
        ops.crossover_mutate(**arguments, backend=backend),
    )


@each_backend
@given(variations(), st.data())
def test_one_call_is_its_parts(
    backend: str, arguments: dict[str, Any], data: st.DataObject
) -> None:
    slots = len(arguments["sigma"])
    cut = data.draw(st.integers(0, slots), "cut")
    whole = ops.crossover_mutate(**arguments, backend=backend)
    for start, end in ((0, cut), (cut, slots)):
        part = ops.crossover_mutate(**part_of(arguments, start, end), backend=backend)
        assert_same_bits(part, whole[start:end])


@each_backend
@given(layouts, st.sampled_from(INIT_SCHEMES), st.integers(0, 2**64 - 1), st.integers(0, 4))
def test_init_is_the_same_in_parts(
    backend: str, layout: GenomeLayout, scheme: Any, seed: int, cut: int
) -> None:
    options = {"seed": seed, "scheme": scheme, "backend": backend}
    whole = ops.init_genomes(layout, 4, **options)
    assert_same_bits(ops.init_genomes(layout, cut, **options), whole[:cut])
    assert_same_bits(ops.init_genomes(layout, 4 - cut, first=cut, **options), whole[cut:])


@each_backend
@given(variations(), st.sampled_from(sorted(MEMORY)), st.sampled_from(sorted(MEMORY)))
def test_where_rows_lie_does_not_matter(
    backend: str, arguments: dict[str, Any], memory: str, out_memory: str
) -> None:
    expected = ops.crossover_mutate(**arguments, backend=backend)
    placed = arguments | {"genomes": MEMORY[memory](arguments["genomes"])}
    out = MEMORY[out_memory](np.zeros_like(expected))
    assert ops.crossover_mutate(**placed, out=out, backend=backend) is out
    assert_same_bits(out, expected)


@each_backend
@given(variations(kinds=("arithmetic",)))
def test_equal_parents_are_copied(backend: str, arguments: dict[str, Any]) -> None:
    arguments["genomes"] = special_numbers(*arguments["genomes"].shape)
    arguments["parents"][:] = arguments["parents"][0]
    arguments["sigma"][:] = 0
    child = ops.crossover_mutate(**arguments, backend=backend)
    expected = arguments["genomes"][arguments["parents"][0]]
    assert (child.view(np.uint32) == expected.view(np.uint32)).all()


@each_backend
@given(variations())
def test_mutation_comes_after_crossover(backend: str, arguments: dict[str, Any]) -> None:
    crossed = ops.crossover_mutate(
        **(arguments | {"sigma": np.zeros_like(arguments["sigma"])}), backend=backend
    )
    own = np.arange(len(crossed), dtype=np.int32)[None]
    mutated = ops.crossover_mutate(
        **(arguments | {"genomes": crossed, "parents": own, "kind": "none"}), backend=backend
    )
    assert_same_bits(ops.crossover_mutate(**arguments, backend=backend), mutated)


@each_backend
@given(variations())
def test_sigma_zero_is_no_mutation(backend: str, arguments: dict[str, Any]) -> None:
    child = ops.crossover_mutate(**arguments, backend=backend)
    still = arguments | {"sigma": np.zeros_like(arguments["sigma"])}
    unmutated = ops.crossover_mutate(**still, backend=backend)
    zero = arguments["sigma"] == 0
    assert_same_bits(child[zero], unmutated[zero])
    never = ops.crossover_mutate(**(arguments | {"mutation_rate": 0.0}), backend=backend)
    assert_same_bits(never, unmutated)


@each_backend
@given(
    st.lists(st.floats(0, 2.0**127, width=32), max_size=9),
    st.floats(0, 2.0**30),
    places,
)
def test_adapted_sigma_stays_within_its_limits(
    backend: str, sigma: list[float], tau: float, place: dict[str, int]
) -> None:
    adapted = ops.mutate_sigma(np.array(sigma, F), tau=tau, **place, backend=backend)
    assert ((adapted >= 2.0**-40) & (adapted <= 2.0**10)).all()


Evaluate = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, ...]]


def evaluation(network: Network, backend: str) -> tuple[Evaluate, np.ndarray]:
    """A function of x and index that gives outputs, or loss and correct, and a shared batch x."""
    genomes = numbers(4, network.layout.size)
    x = numbers(7, *network.input_shape)

    def evaluate(x: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, ...]:
        options = {"index": index, "backend": backend}
        outputs = ops.network_forward(genomes, network, x, **options)
        if len(network.output_shape) > 1:
            return (outputs,)
        labels = np.arange(outputs.shape[1]) % network.output_shape[0]
        return (outputs, *ops.network_loss(genomes, network, x, labels, **options))

    return evaluate, x


indices = st.lists(st.integers(0, 3), max_size=6).map(lambda items: np.array(items, np.int32))


@each_backend
@pytest.mark.parametrize("network", NETWORKS)
@given(index=indices, seed=st.integers(0, 2**32))
def test_slots_do_not_see_each_other(
    backend: str, network: Network, index: np.ndarray, seed: int
) -> None:
    evaluate, x = evaluation(network, backend)
    order = np.random.default_rng(seed).permutation(len(index))
    own = numbers(len(index), *x.shape)
    for before, after in ((x, x), (own, own[order])):
        results, permuted = evaluate(before, index), evaluate(after, index[order])
        for actual, expected in zip(permuted, results, strict=True):
            assert_same_bits(actual, expected[order])


@each_backend
@pytest.mark.parametrize("network", NETWORKS)
@given(samples=st.integers(1, 70), padding=st.integers(1, 70))
def test_samples_do_not_see_each_other(
    backend: str, network: Network, samples: int, padding: int
) -> None:
    genomes = numbers(2, network.layout.size)
    x = numbers(samples, *network.input_shape)
    longer = np.concatenate([x, np.full((padding, *network.input_shape), np.nan, F)])
    outputs = ops.network_forward(genomes, network, x, backend=backend)
    padded = ops.network_forward(genomes, network, longer, backend=backend)
    assert_same_bits(padded[:, :samples], outputs)


@each_backend
@pytest.mark.parametrize("network", NETWORKS)
def test_a_shared_batch_is_the_same_batch_for_every_slot(backend: str, network: Network) -> None:
    evaluate, x = evaluation(network, backend)
    index = np.array([2, 0, 2], np.int32)
    for shared, own in zip(evaluate(x, index), evaluate(np.stack([x, x, x]), index), strict=True):
        assert_same_bits(own, shared)


@each_backend
@pytest.mark.parametrize("network", NETWORKS)
def test_no_slots_give_empty_results(backend: str, network: Network) -> None:
    evaluate, x = evaluation(network, backend)
    nobody = np.zeros(0, np.int32)
    for batch in (x, np.zeros((0, *x.shape), F)):
        outputs, *rest = evaluate(batch, nobody)
        assert outputs.shape == (0, len(x), *network.output_shape)
        assert [(array.shape, array.dtype) for array in rest] in (
            [],
            [((0,), np.dtype(F)), ((0,), np.dtype(np.int32))],
        )


@each_backend
def test_no_slots_of_the_other_ops(backend: str) -> None:
    layout, place = GenomeLayout((DenseGenes(2, 3),)), {"seed": 1, "generation": 0}
    genomes, nothing = numbers(2, 9), np.zeros(0, F)
    nobody = np.zeros((2, 0), np.int32)
    assert ops.init_genomes(layout, 0, seed=1, backend=backend).shape == (0, 9)
    offspring = ops.crossover_mutate(genomes, nobody, nothing, **place, backend=backend)
    assert offspring.shape == (0, 9)
    assert ops.mutate_sigma(nothing, tau=0.1, **place, backend=backend).shape == (0,)
    w, b = numbers(2, 3, 4), numbers(2, 4)
    outputs = ops.dense_forward(numbers(5, 3), w, b, index=nobody[0], backend=backend)
    assert outputs.shape == (0, 5, 4)
    assert ops.dense_forward(
        np.zeros((0, 5, 3), F), w[:0].copy(), b[:0].copy(), backend=backend
    ).shape == (0, 5, 4)
    x = np.zeros((0, 5, 4, 2, 2), F)
    assert ops.affine(x, b, b, index=nobody[0], backend=backend).shape == x.shape
    assert ops.max_pool2d(x, 2, backend=backend).shape == (0, 5, 4, 1, 1)
    assert ops.avg_pool2d(x, 2, backend=backend).shape == (0, 5, 4, 1, 1)


@each_backend
@pytest.mark.parametrize("network", NETWORKS)
def test_an_empty_batch_is_an_error(backend: str, network: Network) -> None:
    evaluate, x = evaluation(network, backend)
    index = np.array([1, 0], np.int32)
    for empty in (x[:0], np.zeros((2, 0, *network.input_shape), F)):
        with pytest.raises(ShapeError, match="x: expected a batch of B >= 1 samples"):
            evaluate(empty, index)
