"""Arguments as users give them: NumPy's numbers, odd arrays, outputs over inputs, nothing."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pytest
from cases import F, numbers
from numpy.testing import assert_array_equal

from evokern import ops
from evokern.errors import ArgumentError, BackendError, DtypeError, MemoryLimitError, ShapeError
from evokern.layers import AvgPool2d, Conv2d, Dense, Elman, Flatten, Layer, MaxPool2d
from evokern.layout import DenseGenes, GenomeLayout
from evokern.lineage import Lineages, Recipe, founders
from evokern.network import Network

LAYOUT = GenomeLayout((DenseGenes(2, 3),))
NETWORK = Network.mlp(2, [], 3)
POOL = numbers(4, 9)


def vary(**options: Any) -> np.ndarray:
    given: dict[str, Any] = {
        "parents": np.array([[0, 1, 2, 3], [3, 2, 1, 0]], np.int32),
        "sigma": np.array([0.5, 0.25, 1, 2], F),
        "seed": 1,
        "generation": 1,
    }
    return ops.crossover_mutate(POOL, **(given | options))


@pytest.mark.parametrize("name", ["parents", "sigma", "weights", "out_rows"])
def test_out_lies_apart_from_what_says_how_to_write_it(name: str) -> None:
    memory = np.zeros((4, 9), F)
    sigma = np.array([0.5, 0.25, 1, 2], F)
    values = {
        "parents": np.array([[0, 1, 2, 3]], np.int32),
        "sigma": sigma,
        "weights": np.full((2, 4), 0.5, F),
        "out_rows": np.arange(4, dtype=np.int32),
    }
    given = values[name]
    inside = memory.reshape(-1)[: given.size].view(given.dtype).reshape(given.shape)
    inside[...] = given
    kind = "arithmetic" if name == "weights" else "uniform"
    with pytest.raises(
        ArgumentError, match=f"^out: expected memory apart from {name}, got an over"
    ):
        vary(kind=kind, out=memory, **{name: inside})
    assert_array_equal(inside, given)


def test_out_lies_apart_from_the_index() -> None:
    memory = np.zeros((3, 4, 3), F)
    index = memory.reshape(-1)[:3].view(np.int32)
    x, w = numbers(4, 2), numbers(3, 2, 3)
    with pytest.raises(ArgumentError, match=r"^out: expected memory apart from index"):
        ops.dense_forward(x, w, index=index, out=memory)
    with pytest.raises(ArgumentError, match=r"^out: expected memory apart from index"):
        ops.network_forward(POOL, NETWORK, x, index=index[None], out=memory)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_numpys_integers_do_not_overflow(backend: str) -> None:
    for seed, first in ((np.int32(5), 3), (5, np.uint8(254)), (np.uint64(5), np.int16(32766))):
        drawn = ops.init_genomes(LAYOUT, 4, seed=seed, first=first, backend=backend)
        wanted = ops.init_genomes(LAYOUT, 4, seed=int(seed), first=int(first))
        assert_array_equal(drawn, wanted)
        offspring = vary(seed=seed, generation=np.int8(127), first=first, backend=backend)
        assert_array_equal(offspring, vary(seed=int(seed), generation=127, first=int(first)))
    table = np.full((5, 3), 1 / 3, F)
    drawn = ops.nes_sample(table, 4, seed=np.int32(5), step=np.int32(7), backend=backend)
    assert_array_equal(drawn, ops.nes_sample(table, 4, seed=5, step=7))


def test_recipes_of_numpys_numbers_are_json() -> None:
    recipe = Recipe(np.int64(3), rate=np.float32(0.5), mutation_rate=np.int32(1))
    assert recipe == Recipe(3)
    lineages = founders(2, seed=np.int64(3), rate=np.float32(0.5))
    json.dumps(lineages.to_arrays()[1])


def test_an_empty_out_is_as_good_as_none() -> None:
    assert vary(
        parents=np.zeros((2, 0), np.int32), sigma=np.zeros(0, F), out=np.zeros((0, 9), F)
    ).shape == (0, 9)
    ops.init_genomes(GenomeLayout(()), 3, seed=0, out=np.zeros((3, 0), F))
    index = np.zeros(0, np.int32)
    out = np.zeros((0, 4, 3), F)
    assert ops.network_forward(POOL, NETWORK, numbers(4, 2), index=index, out=out) is out
    out = np.zeros((4, 0), np.int32)
    assert ops.nes_sample(np.zeros((0, 3), F), 4, seed=0, step=0, out=out) is out


def test_lineages_that_mutate_where_the_recipe_does_not_are_refused() -> None:
    lineages = founders(3, seed=1).offspring(
        np.array([[0, 1]], np.int32), np.array([0.5, 0], F), generation=1
    )
    arrays, header = lineages.to_arrays()
    with pytest.raises(ArgumentError, match=r"^sigma: expected no mutations .* got 1 mutations"):
        Lineages.from_arrays(arrays, header | {"mutation_rate": 0.0})
    with pytest.raises(DtypeError, match=r"^weights: expected numbers \[R\], got int 5"):
        Lineages.from_arrays(arrays, header | {"kind": "arithmetic", "weights": 5})


def test_lineages_of_weights_of_both_signs() -> None:
    weights = np.array([1.5, -0.5], F)
    parents = np.array([[0, 1, 2], [1, 2, 0]], np.int32)
    lineages = founders(3, seed=1, kind="arithmetic", weights=weights)
    lineages = lineages.offspring(parents, np.zeros(3, F), generation=1)
    genomes = ops.init_genomes(LAYOUT, 3, seed=1)
    wanted = ops.crossover_mutate(
        genomes,
        parents,
        np.zeros(3, F),
        kind="arithmetic",
        weights=np.tile(weights[:, None], (1, 3)),
        seed=1,
        generation=1,
    )
    assert_array_equal(ops.replay(lineages, LAYOUT), wanted)


def test_results_do_not_depend_on_which_slope_came_first() -> None:
    x = np.array([[-1]], F)
    outputs = [
        ops.network_forward(
            np.ones((1, 1), F), Network((Dense(1, "leaky_relu", slope, False),), (1,)), x
        )
        for slope in (0.0, -0.0, 0.0)
    ]
    assert Dense(1, "leaky_relu", -0.0) == Dense(1, "leaky_relu", 0.0)
    assert [np.signbit(output).item() for output in outputs] == [True] * 3
    w = np.ones((1, 1, 1), F)
    for slope in (-0.0, 0.0):
        y = ops.dense_forward(x, w, activation="leaky_relu", negative_slope=slope)
        assert np.signbit(y).all()


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda: Dense(3, "leaky_relu", None),
            DtypeError,
            "negative_slope: expected a number, got",
        ),
        (lambda: Dense(3, "leaky_relu", "abc"), DtypeError, "negative_slope: expected a number"),
        (
            lambda: Dense(3, "leaky_relu", np.nan),
            ArgumentError,
            "negative_slope: expected a finite",
        ),
        (lambda: Dense(3, bias="no"), DtypeError, "bias: expected True or False, got str 'no'"),
        (
            lambda: Elman(3, return_sequence=1),
            DtypeError,
            "return_sequence: expected True or False",
        ),
        (lambda: AvgPool2d(2, count_include_pad="no"), DtypeError, "count_include_pad: expected"),
        (lambda: MaxPool2d(None), ArgumentError, "kernel: expected an int or a pair of ints >= 1"),
        (lambda: MaxPool2d(2.0), ArgumentError, "kernel: expected an int or a pair of ints >= 1"),
        (lambda: MaxPool2d((2, 2, 2)), ArgumentError, "kernel: expected an int or a pair of ints"),
        (
            lambda: Network((Dense(3),), (4.9,)),
            DtypeError,
            "input_shape: expected an int, got float",
        ),
        (lambda: Network((Dense(3),), ("4",)), DtypeError, "input_shape: expected an int, got str"),
        (lambda: Network((Dense(3),), 4), DtypeError, "input_shape: expected a tuple, got int 4"),
        (lambda: Network(Dense(3), (4,)), DtypeError, "layers: expected a tuple, got Dense"),
        (
            lambda: ops.dense_forward(numbers(4, 2), numbers(3, 2, 3), negative_slope="abc"),
            DtypeError,
            "negative_slope: expected a number, got str 'abc'",
        ),
        (
            lambda: ops.nes_update(
                np.ones((1, 1), F),
                np.zeros((1, 1), np.int32),
                np.ones(1, F),
                learning_rate=0.1,
                keep_minimum="no",
            ),
            DtypeError,
            "keep_minimum: expected True or False, got str 'no'",
        ),
        (
            lambda: vary(weights="any"),
            ArgumentError,
            "weights: expected None unless kind is 'arith",
        ),
        (
            lambda: vary(rate=10**400),
            ArgumentError,
            r"rate: expected a probability in \[0, 1\], got",
        ),
        (
            lambda: vary(out=np.array(0, F), out_rows=np.arange(4, dtype=np.int32)),
            ShapeError,
            r"out: expected float32 \[Q, G\], got float32 \[\]",
        ),
        (
            lambda: vary(backend=["cpu"]),
            BackendError,
            r"backend: expected a name, got list \['cpu'",
        ),
        (
            lambda: ops.network_forward(POOL, NETWORK, numbers(4, 2), index=[[0], [0, 1]]),
            DtypeError,
            "index: expected an array, got list",
        ),
        (
            lambda: ops.workspace_bytes(None, 1, 1),
            DtypeError,
            "network: expected an evokern Network",
        ),
        (
            lambda: ops.conv2d_forward(
                np.zeros((1, 1, 3, 3), np.uint8), numbers(1, 9, 1), x_scale=3.4028236e38
            ),
            ArgumentError,
            "x_scale: expected a number that float32 can hold",
        ),
        (
            lambda: ops.network_forward([], Network((Flatten(),), (2,)), numbers(4, 2)),
            ShapeError,
            r"index: expected int32 \[S\] for a network without parameters, got None",
        ),
        (
            lambda: ops.network_forward(np.ma.masked_array(POOL, POOL > 0), NETWORK, numbers(4, 2)),
            DtypeError,
            "genomes: expected an array without a mask, got a masked array",
        ),
        (
            lambda: Dense(3, "leaky_relu", 1e39),
            ArgumentError,
            r"negative_slope: expected a finite number that float32 can hold, got 1e\+39",
        ),
        (
            lambda: ops.mutate_sigma(np.ones(2, F), tau=1e39, seed=0, generation=1),
            ArgumentError,
            r"tau: expected a finite number >= 0 that float32 can hold, got 1e\+39",
        ),
        (
            lambda: ops.conv2d_forward(
                numbers(1, 1, 1, 1, 1), numbers(1, 1, 1), kernel=1, stride=2**20, padding=2**20
            ),
            ShapeError,
            "padding: expected a padded image of at most 2147483647 elements, got 1x2097153",
        ),
        (
            lambda: ops.max_pool2d(np.zeros((1, 3, 0, 4), F), 2, padding=1),
            ShapeError,
            r"x: expected float32 \[..., C, H, W\] with H, W >= 1, got \[1, 3, 0, 4\]",
        ),
    ],
)
def test_what_is_refused(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"^{words}"):
        make()


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        (Dense(np.int64(3)), Dense(3)),
        (Conv2d(2, [2, 3], np.int32(1), (np.int64(1), 0)), Conv2d(2, (2, 3), 1, (1, 0))),
        (MaxPool2d(np.int64(2), stride=np.int64(2)), MaxPool2d(2, stride=2)),
    ],
)
def test_layers_of_numpys_integers_and_lists_are_those_of_pythons(
    given: Layer, plain: Layer
) -> None:
    assert (given, repr(given), hash(given)) == (plain, repr(plain), hash(plain))


def test_a_layout_of_a_list_of_blocks() -> None:
    layout = GenomeLayout([DenseGenes(2, 3)])  # type: ignore[arg-type]
    assert layout == LAYOUT
    assert_array_equal(ops.init_genomes(layout, 2, seed=0), ops.init_genomes(LAYOUT, 2, seed=0))


def test_networks_without_parameters_run_on_no_banks() -> None:
    x = numbers(4, 2)
    for index in (np.array([0, 5], np.int32), np.zeros((0, 2), np.int32)):
        outputs = ops.network_forward([], Network((Flatten(),), (2,)), x, index=index)
        assert_array_equal(outputs, [x, x])


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_subclasses_of_arrays_are_arrays(backend: str, tmp_path: Any) -> None:
    x = numbers(4, 2)
    wanted = ops.network_forward(POOL, NETWORK, x)
    matrix = np.asmatrix(POOL)
    assert_array_equal(ops.network_forward(matrix, NETWORK, x, backend=backend), wanted)
    mapped = np.memmap(tmp_path / "genomes", F, "w+", shape=POOL.shape)
    mapped[:] = POOL
    assert_array_equal(ops.network_forward(mapped, NETWORK, np.asmatrix(x)), wanted)
    assert ops.crossover_mutate(
        POOL,
        np.arange(4, dtype=np.int32)[None],
        np.zeros(4, F),
        seed=0,
        generation=1,
        out=mapped,
    ) is mapped  # fmt: skip


def test_tensors_that_require_grad_are_refused_without_grad_mode_too() -> None:
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.zeros(4, 9))
    with torch.no_grad():
        with pytest.raises(ArgumentError, match=r"^genomes: expected a tensor without grad"):
            ops.network_forward(parameter, NETWORK, torch.zeros(4, 2))
        with pytest.raises(ArgumentError, match=r"^out: expected a tensor without grad"):
            vary(out=parameter)


def test_subclasses_of_tensors_are_tensors() -> None:
    torch = pytest.importorskip("torch")

    class Own(torch.Tensor):
        pass

    Own.__module__ = "elsewhere"
    genomes = torch.from_numpy(POOL).as_subclass(Own)
    outputs = ops.network_forward(genomes, NETWORK, numbers(4, 2))
    assert isinstance(outputs, torch.Tensor)


def test_what_dlpack_cannot_give_is_named() -> None:
    class Capsule:
        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        def __dlpack__(self, **options: Any) -> Any:
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return self.array.__dlpack_device__()

    x = numbers(4, 2)
    wanted = ops.network_forward(POOL, NETWORK, x)
    assert_array_equal(ops.network_forward(Capsule(POOL), NETWORK, x), wanted)
    other = ">f4" if sys.byteorder == "little" else "<f4"
    with pytest.raises(
        DtypeError, match=r"^genomes: expected an array that NumPy can take by DLPa"
    ):
        ops.network_forward(Capsule(POOL.astype(other)), NETWORK, x)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_out_may_have_gaps_at_an_odd_axis(backend: str) -> None:
    x, w = numbers(2, 3, 5), numbers(2, 5, 4)
    memory = np.zeros((2, 5, 4), F)
    wanted = ops.dense_forward(x, w, backend=backend)
    ops.dense_forward(x, w, out=memory[:, ::2], backend=backend)
    assert_array_equal(memory[:, ::2], wanted)
    assert_array_equal(memory[:, 1::2], np.zeros((2, 2, 4), F))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_pools_take_images_with_gaps(backend: str) -> None:
    x = numbers(2, 9, 6, 4)
    for view in (x[:, :5], x[:, ::2], x[:, :, 1:5]):
        for pool in (ops.max_pool2d, ops.avg_pool2d):
            wanted = pool(view.copy(), 2, backend=backend)
            assert_array_equal(pool(view, 2, backend=backend), wanted)


def test_one_network_on_a_batch_that_nobody_shares() -> None:
    network = Network((Flatten(), Dense(3, "tanh"), Dense(2)), (1, 2, 2))
    genomes = ops.init_genomes(network.layout, 3, seed=1)
    x, labels = numbers(150, 1, 2, 2), np.arange(150) % 2
    together = ops.network_loss(genomes, network, x, labels)
    for i in range(3):
        alone = ops.network_loss(genomes[i : i + 1], network, x, labels)
        assert_array_equal(np.concatenate(alone), [together[0][i], together[1][i]])


def test_scratch_memory_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network.mlp(64, [], 2)
    genomes = ops.init_genomes(network.layout, 2, seed=0)
    x, y = np.zeros((300_000, 64), np.uint8), np.zeros(300_000, np.int64)
    monkeypatch.setattr("evokern.memory.available_bytes", lambda: 1 << 20)
    with pytest.raises(MemoryLimitError, match=r"^scratch memory: 0\.\d+ GB asked, 0\.00 GB there"):
        ops.network_loss(genomes, network, x, y, x_scale=1.0)
