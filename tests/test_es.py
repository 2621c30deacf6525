"""The evolution strategy: against one written with NumPy, its rules, whole runs, the command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import Case, threads
from cases_mutants import CASES
from numpy.testing import assert_array_equal
from scalar_rules import F

from evokern import Affine, Conv2d, Dense, Flatten, MaxPool2d, Network, Residual, ops
from evokern.__main__ import main
from evokern.checkpoint import load_network
from evokern.drivers.es import ES, ESConfig, mutated_slices, next_generation
from evokern.drivers.train_es import train_es
from evokern.drivers.watch import WatchConfig
from evokern.errors import ArgumentError, DtypeError, FitnessError, ObjectiveError, ShapeError
from evokern.layout import DenseGenes, GenomeLayout, rows_of
from evokern.metrics import read_metrics
from evokern.nes import rank_utilities
from evokern.problems import datasets
from evokern.problems import mutants as mutants_module
from evokern.problems.classification import Classification, ClassificationConfig
from evokern.problems.datasets import Dataset
from evokern.problems.mutants import Trace
from evokern.slices import Mutants, slices_of

NETWORK = Network(
    (MaxPool2d(2), Flatten(), Dense(8, "relu"), Dense(7, "tanh"), Dense(4)), (1, 6, 6)
)
LAYOUT = NETWORK.layout


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads would take longer to meet than these small populations take."""
    with threads(1):
        yield


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Images whose class is where they are bright."""
    random = np.random.default_rng(3)
    labels = np.arange(400, dtype=np.uint8) % 4
    images = random.integers(0, 60, (400, 1, 6, 6)).astype(np.uint8)
    for quarter in range(4):
        top, left = 3 * (quarter // 2), 3 * (quarter % 2)
        images[labels == quarter, :, top : top + 3, left : left + 3] += 120
    return Dataset("quarters", images[:300], labels[:300], images[300:], labels[300:])


def problem_of(dataset: Dataset, **settings: Any) -> Classification:
    config = ClassificationConfig(**{"batch": 32, **settings})
    return Classification(dataset, NETWORK, config, seed=5)


def sphere(genomes: np.ndarray) -> np.ndarray:
    """Fitness whose best genome is all ones."""
    return -((genomes - F(1)) ** 2).sum(axis=1)


def test_shares_of_the_offspring() -> None:
    assert ESConfig(population=10).offspring == (10,)
    assert ESConfig(population=10, units=(4, 7, 4)).offspring == (3, 3, 4)
    assert ESConfig(population=256, units=(8, 8, 16, 10), shares=(3, 2, 2, 1)).offspring == (
        *(96, 64, 64, 32),
    )
    assert ESConfig(population=7, units=(4, 7, 4), shares=(0, 2, 3)).offspring == (0, 2, 5)


def test_no_units_are_all_units_of_a_layer() -> None:
    config = ESConfig(population=10, seed=2, units=(2, 0, 0))
    assert config.fitted(LAYOUT).units == (2, 7, 4)
    es, same = ES(LAYOUT, config), ES(LAYOUT, config.fitted(LAYOUT))
    assert_array_equal(es.ask(), same.ask())
    with pytest.raises(ArgumentError, match="units: expected at most one number per layer"):
        ESConfig(units=(8, 7, 4, 0)).fitted(LAYOUT)


def test_a_generation_is_eq_8_9() -> None:
    """A step and an average with literal arithmetic, from the same random numbers."""
    config = ESConfig(
        population=6, sigma=0.25, learning_rate=3, weight_decay=0.1, average_share=0.5, seed=9
    )
    es = ES(LAYOUT, config)
    start = es.centre.copy()
    assert_array_equal(start, ops.init_genomes(LAYOUT, 1, seed=9))
    assert_array_equal(es.average, start)
    averages = [start]
    for generation in (1, 2, 3, 4, 5):
        before = es.centre.copy()
        offspring = es.ask()
        sigma = np.float32(0.25 * 0.9992 ** (generation - 1))
        noise = ops.crossover_mutate(
            np.zeros((1, LAYOUT.size), F),
            np.zeros((1, 6), np.int32),
            np.ones(6, F),
            kind="none",
            seed=9,
            generation=generation,
        )
        np.testing.assert_allclose(offspring, before + sigma * noise, rtol=0, atol=1e-6)
        fitness = sphere(offspring)
        es.tell(fitness)
        step = (rank_utilities(-fitness)[:, None] * (offspring - before)).mean(axis=0)
        expected = before[0] * (1 - 0.1 * sigma / 0.25) + 3 * step
        np.testing.assert_allclose(es.centre[0], expected, rtol=0, atol=1e-5)
        newest = 1 / max(1.0, 0.5 * generation)
        averages.append(newest * es.centre + (1 - newest) * averages[-1])
        np.testing.assert_allclose(es.average, averages[-1], rtol=0, atol=1e-5)
        assert es.generation == generation + 1


def test_what_a_schedule_shrinks() -> None:
    settings = {"sigma": 0.5, "sigma_schedule": "power", "sigma_period": 1, "sigma_exponent": 1}
    settings |= {"learning_rate": 8, "weight_decay": 0.25}
    config = ESConfig(**settings)
    assert [config.sigma_of(generation) for generation in (1, 2, 4)] == [0.5, 0.25, 0.125]
    assert [config.rates_of(generation) for generation in (1, 2, 4)] == [
        (8, 0.25),
        (8, 0.125),
        (8, 0.0625),
    ]
    config = ESConfig(**settings, anneal="learning_rate")
    assert [config.sigma_of(generation) for generation in (1, 2, 4)] == [0.5, 0.5, 0.5]
    assert [config.rates_of(generation)[0] for generation in (1, 2, 4)] == [8, 4, 2]
    steps = []
    for anneal in ("sigma", "learning_rate"):
        es = ES(LAYOUT, ESConfig(population=4, anneal=anneal, **settings))
        for _ in (1, 2):
            before = es.centre.copy()
            es.ask()
            es.tell([1, 2, 3, 4])
        steps.append(es.centre - before * (1 - F(0.125)))
    assert np.std(steps[0]) == pytest.approx(np.std(steps[1]), rel=1e-5)


def columns(block: int, units: int, k: int) -> np.ndarray:
    """Genes of the k-th slice of a layer, literally."""
    shape = ((9 + 1, 8), (8 + 1, 7), (7 + 1, 4))[block]
    first = (0, 80, 80 + 63)[block]
    genes = first + np.arange(shape[0] * shape[1]).reshape(shape)
    return genes[:, k * units : (k + 1) * units].ravel()


UNITS = {"units": (2, 7, 4), "shares": (3, 1, 1)}
"""Of 10 offspring 6 mutate one of four pairs of units of the first layer, 2 each all others."""


def test_offspring_mutate_one_slice_of_one_layer() -> None:
    es = ES(LAYOUT, ESConfig(population=10, seed=2, **UNITS))
    for generation in (1, 2, 3):
        before, genomes = es.centre.copy(), es.ask()
        places = [(0, 2, (6 * (generation - 1) + i) % 4) for i in range(6)]
        places += [(1, 7, 0)] * 2 + [(2, 4, 0)] * 2
        for genome, place in zip(genomes, places, strict=True):
            assert_array_equal(np.flatnonzero(genome != before), np.sort(columns(*place)))
        deviates = (genomes - before)[(genomes - before) != 0]
        assert len(np.unique(deviates)) > 0.9 * len(deviates)  # nobody draws another one's numbers
        es.tell(np.zeros(10, F))
        assert_array_equal(es.centre, before)


def test_a_generation_of_slices_is_eq_8_9_for_each() -> None:
    """Two offspring of each pair of units; half of the rate, since there are four pairs."""
    config = ESConfig(
        population=12,
        sigma=0.25,
        learning_rate=3,
        weight_decay=0.1,
        seed=9,
        units=(2, 7, 4),
        shares=(8, 2, 2),
    )
    es = ES(LAYOUT, config)
    for _ in (1, 2):
        before, offspring = es.centre.copy(), es.ask()
        fitness = np.arange(12, dtype=F)[::-1] ** 2
        es.tell(fitness)
        sigma = float(config.sigma_of(es.generation - 1))
        expected = before[0] * (1 - 0.1 * sigma / 0.25)
        for first, count, rate in ((0, 8, 3 / 2 / 2), (8, 2, 3 / 2), (10, 2, 3 / 2)):
            own = slice(first, first + count)
            utilities = np.linspace(1, -1, count)[:, None]
            expected += rate * (utilities * (offspring - before)[own]).sum(axis=0)
        np.testing.assert_allclose(es.centre[0], expected, rtol=0, atol=1e-5)


def test_few_offspring_of_many_slices() -> None:
    """Three offspring of eight units: one each, the others only decay; large steps are no error."""
    config = ESConfig(
        population=5,
        sigma=0.01,
        learning_rate=280,
        weight_decay=0.1,
        seed=3,
        units=(1, 7),
        shares=(3, 2),
    )
    es = ES(LAYOUT, config)
    for generation in (1, 2, 3):
        before, offspring = es.centre.copy(), es.ask()
        es.tell(np.array([3, 1, 2, 1, 2], F))
        left = 1 - 0.1 * float(config.sigma_of(generation)) / 0.01
        expected = before[0].astype(np.float64)
        expected[: LAYOUT.offsets[2]] *= left
        for slot, utility, rate in (
            *((0, 1, 280 / np.sqrt(8)), (1, -1, 280 / np.sqrt(8))),
            *((3, -1, 280 / 2), (4, 1, 280 / 2)),
        ):
            expected += rate * utility * (offspring[slot] - before[0])
        np.testing.assert_allclose(es.centre[0], expected, rtol=0, atol=1e-4)


def test_an_error_of_one_layer_leaves_all_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    es = ES(LAYOUT, ESConfig(population=10, **UNITS))
    es.ask()
    before, real, calls = es.centre.copy(), ES._combine, []

    def fails(es: ES, *arguments: Any) -> None:
        calls.append(real(es, *arguments))
        if len(calls) == 2:
            raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(ES, "_combine", fails)
        with pytest.raises(MemoryError):
            es.tell(np.arange(10))
    assert_array_equal(es.centre, before)
    es.tell(np.arange(10))


def test_who_failed_is_named(dataset: Dataset) -> None:
    """By the number among all offspring, whatever the layer and the piece."""
    config = ClassificationConfig(batch=32)
    seen = 0

    def objective(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        nonlocal seen
        seen += len(logits)
        if seen > 6:
            raise ValueError("no")
        return np.zeros(len(logits), F)

    problem = Classification(dataset, NETWORK, config, seed=5, objective=objective)
    es = ES(LAYOUT, ESConfig(population=10, **UNITS))
    with pytest.raises(ObjectiveError, match="objective: failed on individual 6: ValueError: no"):
        next_generation(es, problem)


def test_it_finds_the_best_genome() -> None:
    es = ES(LAYOUT, ESConfig(population=60, sigma=0.1, learning_rate=8, sigma_decay=0.99))
    start = sphere(es.centre)[0]
    for _ in range(300):
        es.tell(sphere(es.ask()))
    assert sphere(es.average)[0] > 0.01 * start


@pytest.mark.parametrize("settings", [{}, {"sampling": "importance", "importance_every": 3}])
@pytest.mark.parametrize("cut", [{}, UNITS, {"units": (8, 7, 4)}, {"units": (1,)}])
def test_mutants_are_evaluated_as_whole_networks(
    dataset: Dataset, cut: dict[str, Any], settings: dict[str, Any]
) -> None:
    """Whole genomes on the same batch have the same fitness, but for the order of sums."""
    problem, whole = problem_of(dataset, **settings), problem_of(dataset, **settings)
    es = ES(LAYOUT, ESConfig(population=10, seed=4, **cut))
    rows = np.arange(11, dtype=np.int32)
    for generation in range(1, 8):
        genomes = np.concatenate([es.centre, es.ask()])  # importance looks at the first
        expected = whole.evaluate(genomes, rows, generation)[1:]
        fitness = next_generation(es, problem)
        np.testing.assert_allclose(fitness, expected, rtol=0, atol=4e-6 * np.abs(expected).max())


@pytest.mark.parametrize("objective", ["accuracy", "mse", "macro_f1", "cross_entropy"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_objectives(dataset: Dataset, objective: Any, precision: Any) -> None:
    problem = problem_of(dataset, objective=objective, precision=precision)
    es = ES(LAYOUT, ESConfig(population=10, seed=1, **UNITS))
    genomes = es.ask()
    expected = problem.evaluate(genomes, np.arange(10, dtype=np.int32), 1)
    fitness = problem.evaluate_mutants(es.centre, es.ask_mutants(), 1)
    tolerance = 1e-5 if precision == "fp32" else 0.05
    np.testing.assert_allclose(fitness, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", CASES["mutant_loss"], ids=str)
def test_one_kernel_and_several_give_the_same_bits(case: Case) -> None:
    """What devices compose of their kernels is what the host's one kernel computes."""
    (genes, index, centre, network, x, y), options = case.make()
    one, correct = ops.mutant_loss(genes, index, centre, network, x, y, **options)
    units = genes.shape[1] // rows_of(network.layout.blocks[0])
    mutants = Mutants(slices_of(network.layout, 0, units), index, genes)
    weights = options.pop("sample_weights", None)
    for piece in Trace(network, centre, x, precision="fp32", device="cpu").pieces(mutants):
        several = ops.network_loss(
            piece.genes,
            piece.rest,
            piece.values,
            y if len(y) == len(x) else y[piece.slots],
            index=np.zeros(len(piece.values), np.int32),
            sample_weights=weights if np.ndim(weights) < 2 else weights[piece.slots],
            **options,
        )
        assert_array_equal(several[0], one[piece.slots])
        assert_array_equal(several[1], correct[piece.slots])


def test_many_mutants_are_computed_in_pieces(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = problem_of(dataset, objective="accuracy")
    es = ES(LAYOUT, ESConfig(population=40, seed=1, **UNITS))
    mutants = es.ask_mutants()
    expected = problem.evaluate_mutants(es.centre, mutants, 1)
    monkeypatch.setattr(mutants_module, "_SCRATCH_BYTES", 4 * 7 * 32 * 5)  # five at a time
    trace = Trace(NETWORK, es.centre, problem.batch(1).x, precision="fp32", device="cpu")
    assert [p.slots.stop - p.slots.start for p in trace.pieces(mutants[0])] == [5, 5, 5, 5, 4]
    assert_array_equal(problem.evaluate_mutants(es.centre, mutants, 1), expected)


def test_slices_want_dense_layers_and_direct_genes(dataset: Dataset) -> None:
    es = ES(LAYOUT, ESConfig(population=10, **UNITS))
    with pytest.raises(ArgumentError, match="phenotype: expected direct"):
        next_generation(es, problem_of(dataset, phenotype="sign"))
    convolution = Network((Conv2d(4, 3), Flatten(), Dense(4)), (1, 6, 6))
    problem = Classification(dataset, convolution, ClassificationConfig(batch=32), seed=5)
    es = ES(convolution.layout, ESConfig(population=10, units=(2, 4)))
    with pytest.raises(ArgumentError, match=r"network: expected dense layers only.*Conv2d"):
        next_generation(es, problem)
    es = ES(convolution.layout, ESConfig(population=10))
    assert len(next_generation(es, problem)) == 10
    for precision in ("fp32", "bf16"):
        es = ES(LAYOUT, ESConfig(population=10, units=(8, 7, 2)))
        wanted = "units: expected all 4 outputs of the last layer, got 2; try 4 as the last number"
        with pytest.raises(ArgumentError, match=wanted):
            next_generation(es, problem_of(dataset, precision=precision))


def test_mutants_can_be_checked_before_there_are_any(dataset: Dataset) -> None:
    problem = problem_of(dataset)
    for units, shares in ((), ()), ((2, 7, 4), ()), ((8, 7, 2), (1, 1, 0)):
        problem.check_mutants(mutated_slices(LAYOUT, ESConfig(units=units, shares=shares)))
    with pytest.raises(ArgumentError, match="units: expected all 4 outputs of the last layer"):
        problem.check_mutants(mutated_slices(LAYOUT, ESConfig(units=(8, 7, 2))))
    problem = problem_of(dataset, phenotype="sign")
    problem.check_mutants(mutated_slices(LAYOUT, ESConfig()))
    with pytest.raises(ArgumentError, match="phenotype: expected direct"):
        problem.check_mutants(mutated_slices(LAYOUT, ESConfig(units=(2,))))


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"population": 1}, ArgumentError, "population: expected an int in"),
        ({"population": 2.0}, DtypeError, "population: expected an int"),
        ({"generations": 0}, ArgumentError, "generations: "),
        ({"sigma": -0.1}, ArgumentError, "sigma: expected a number in"),
        ({"sigma": float("nan")}, ArgumentError, "sigma: "),
        ({"sigma": 0}, ArgumentError, "sigma: expected a float32 > 0"),
        ({"sigma": 0.1, "sigma_min": 0.2}, ArgumentError, "sigma_min: expected at most sigma, 0.1"),
        ({"anneal": "rate"}, ArgumentError, "anneal: expected one of"),
        ({"learning_rate": float("inf")}, ArgumentError, "learning_rate: "),
        ({"learning_rate": "1"}, DtypeError, "learning_rate: expected a number"),
        ({"sigma_schedule": "self_adaptive"}, ArgumentError, "sigma_schedule: expected one of"),
        ({"sigma_decay": 0}, ArgumentError, "sigma_decay: expected a factor"),
        ({"average_share": 1.5}, ArgumentError, "average_share: expected a share"),
        ({"weight_decay": -0.1}, ArgumentError, "weight_decay: expected a share"),
        ({"units": (8, -1)}, ArgumentError, "units: expected an int in"),
        ({"units": (8, 2.5)}, DtypeError, "units: expected an int"),
        ({"units": (8, 8), "shares": (1,)}, ArgumentError, "units: expected as many numbers as"),
        ({"shares": (1,)}, ArgumentError, "units: expected as many numbers as shares has"),
        ({"units": (8, 8), "shares": (0, 0)}, ArgumentError, "shares: expected numbers that are"),
        ({"units": (8, 8), "shares": (1, -1)}, ArgumentError, "shares: expected an int in"),
        ({"units": 8}, DtypeError, "units: expected numbers, one per layer, got int 8"),
        ({"shares": None}, DtypeError, "shares: expected numbers, one per layer"),
        (
            {"population": 10, "units": (1, 1, 1), "shares": (50, 1, 49)},
            ArgumentError,
            r"population: expected at least 2 offspring for each layer .*\[5, 0, 5\]",
        ),
        ({"population": 3, "units": (8, 8)}, ArgumentError, "population: expected at least 2 off"),
        ({"init": "zeros"}, ArgumentError, "init: expected one of"),
        ({"seed": -1}, ArgumentError, "seed: "),
    ],
)
def test_errors_of_settings(settings: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        ESConfig(**settings)


def test_errors() -> None:
    with pytest.raises(DtypeError, match="layout: expected a GenomeLayout"):
        ES(NETWORK, ESConfig())  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="units: expected at most one number per layer"):
        ES(LAYOUT, ESConfig(units=(8, 7, 4, 1)))
    with pytest.raises(ArgumentError, match="units: expected a divisor of the 7 outputs of lay"):
        ES(LAYOUT, ESConfig(units=(8, 2)))
    es = ES(LAYOUT, ESConfig(population=3))
    with pytest.raises(ArgumentError, match="tell: expected a call of ask"):
        es.tell([1, 2, 3])
    es.ask()
    before = es.centre.copy()
    with pytest.raises(ShapeError, match=r"fitness: expected \[S=3\], got \[4\]"):
        es.tell([1, 2, 3, 4])
    with pytest.raises(FitnessError, match="all 3 individuals are NaN in generation 1"):
        es.tell([np.nan] * 3)
    assert_array_equal(es.centre, before)
    es.tell([1, np.nan, -np.inf])  # the worst, and the one before
    assert np.isfinite(es.centre).all()
    with pytest.raises(ArgumentError, match="tell: "):
        es.tell([1, 2, 3])


def test_split_networks() -> None:
    residual = Residual((Conv2d(2, 3, padding=1), Affine()))
    network = Network((Conv2d(2, 3), residual, MaxPool2d(2), Flatten(), Dense(5)), (1, 8, 8))
    genomes = ops.init_genomes(network.layout, 2, seed=1)
    x = np.random.default_rng(0).random((3, 1, 8, 8), np.float32)
    expected = ops.network_forward(genomes, network, x)
    for block in (0, 1, 3):
        head, tail = network.split(block)
        cut = network.layout.offsets[block]
        assert head.layout.size == cut
        assert head.layout.blocks + tail.layout.blocks == network.layout.blocks
        between = ops.network_forward(genomes[:, :cut], head, x)
        out = ops.network_forward(genomes[:, cut:], tail, between)
        assert_array_equal(out, expected)
    for block in (2, 4, -1):
        with pytest.raises(ArgumentError, match=r"block: expected the first block .*\[0, 1, 3\]"):
            network.split(block)


class TestRuns:
    CONFIG = ESConfig(population=20, generations=60, sigma=0.1, seed=1, units=(2, 7, 4))
    OPTIONS = WatchConfig(log_every=10, checkpoint_every=7)

    def test_it_learns_and_is_read_again(self, dataset: Dataset, tmp_path: Path) -> None:
        problem = problem_of(dataset, sampling="importance")
        result = train_es(problem, self.CONFIG, tmp_path, self.OPTIONS)
        assert result.generations == 60
        assert result.test_accuracy > 0.9
        records = read_metrics(tmp_path / "metrics.jsonl")
        assert [record["generation"] for record in records] == list(range(10, 61, 10))
        assert records[-1]["holdout_accuracy/best"] == result.holdout_accuracy
        assert {"best.safetensors", "curves.png", "config.json"} <= set(
            path.name for path in tmp_path.iterdir()
        )
        assert json.loads((tmp_path / "config.json").read_text())["algorithm"] == "es"
        assert train_es(problem, self.CONFIG, tmp_path, self.OPTIONS) == result

    def test_units_are_noted_as_numbers_and_refused_before_the_folder_is_made(
        self, dataset: Dataset, tmp_path: Path
    ) -> None:
        config = replace(self.CONFIG, generations=1, units=(0, 0, 0))
        train_es(problem_of(dataset), config, tmp_path / "all")
        assert json.loads((tmp_path / "all/config.json").read_text())["units"] == [8, 7, 4]
        with pytest.raises(ArgumentError, match="try 4 as the last number"):
            train_es(problem_of(dataset), replace(config, units=(2, 7, 2)), tmp_path / "part")
        assert not (tmp_path / "part").exists()

    @pytest.mark.parametrize("indirect", [False, True])
    def test_its_network_is_the_phenotype(
        self, dataset: Dataset, tmp_path: Path, indirect: bool
    ) -> None:
        """What is saved has the accuracy of the result, not the genes."""
        shared = GenomeLayout((DenseGenes(LAYOUT.size // 2, 1),))
        own: dict[str, Any] = {"phenotype": lambda genes: np.resize(genes, LAYOUT.size)}
        problem = Classification(
            dataset,
            NETWORK,
            ClassificationConfig(batch=32, phenotype="direct" if indirect else "sign"),
            seed=5,
            **(own | {"layout": shared} if indirect else {}),
        )
        config = replace(self.CONFIG, units=(), generations=20)
        result = train_es(problem, config, tmp_path, self.OPTIONS)
        _, tensors, _ = load_network(tmp_path / "best.safetensors")
        direct = problem_of(dataset)
        weights = np.atleast_2d(tensors["genomes"])
        assert direct.accuracy(weights, direct.test)[0] == result.test_accuracy

    @pytest.mark.parametrize("stop", [7, 20, 33])
    def test_a_run_resumes_with_the_same_bits(
        self, dataset: Dataset, tmp_path: Path, stop: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = {"sampling": "importance", "importance_every": 5}
        train_es(problem_of(dataset, **settings), self.CONFIG, tmp_path / "whole", self.OPTIONS)
        with monkeypatch.context() as patch:
            real = ES.tell

            def fails_once(es: ES, fitness: Any) -> None:
                if es.generation > stop:
                    raise KeyboardInterrupt
                real(es, fitness)

            patch.setattr(ES, "tell", fails_once)
            with pytest.raises(KeyboardInterrupt):
                train_es(
                    problem_of(dataset, **settings), self.CONFIG, tmp_path / "cut", self.OPTIONS
                )
        train_es(problem_of(dataset, **settings), self.CONFIG, tmp_path / "cut", self.OPTIONS)
        one, other = (
            (tmp_path / name / "best.safetensors").read_bytes() for name in ("whole", "cut")
        )
        assert one == other
        assert [r["fitness/best"] for r in read_metrics(tmp_path / "whole" / "metrics.jsonl")] == [
            r["fitness/best"] for r in read_metrics(tmp_path / "cut" / "metrics.jsonl")
        ]

    def test_threads_and_back_ends_give_the_same_bits(self, dataset: Dataset) -> None:
        """The reference needs no kernel of the CPU."""
        import evokern

        centres = []
        for count, backend in ((1, "cpu"), (2, "cpu"), (1, "reference")):
            with threads(count), evokern.use_backend(backend):
                problem = problem_of(dataset, sampling="importance")
                es = ES(LAYOUT, ESConfig(population=33, seed=7, **UNITS))
                for _ in range(5):
                    next_generation(es, problem)
                centres.append(np.concatenate([es.centre, es.average]))
        assert_array_equal(centres[0], centres[1])
        assert_array_equal(centres[0], centres[2])


@pytest.mark.parametrize("preset", ["quick", "best"])
def test_the_command_has_the_flags_of_the_preset(
    dataset: Dataset,
    preset: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(datasets, "load", lambda name: replace(dataset, name=name))
    monkeypatch.chdir(tmp_path)
    words = ["ea", "mnist", "--preset", preset, "--generations", "3", "--population", "4"]
    assert (
        main([*words, "--batch", "16", "--units", "4", "8", "64", "--shares", "1", "0", "1"]) == 0
    )
    output = capsys.readouterr().out
    assert "4 networks of" in output
    assert "test accuracy" in output
    config = json.loads((tmp_path / f"runs/mnist-{preset}/config.json").read_text())
    assert (config["algorithm"], config["shares"]) == ("es", [1, 0, 1])
    for flags, told in (
        (["--preset", preset, "--elites=1"], "got --elites of the genetic algorithm; try --preset"),
        (["--units", "1"], "got --units of the evolution strategy; try --preset quick or best"),
        (["--preset", preset, "--learning-rates", "1"], "--learning-rates"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["ea", "mnist", *flags])
        assert stop.value.code == 2
        assert told in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("classes", [4, 10, 26])
def test_the_presets_take_any_number_of_classes(
    dataset: Dataset,
    classes: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(datasets, "load", lambda name: replace(dataset, classes=classes))
    words = ["ea", "quarters", "--preset", "quick", "--generations", "3", "--population", "16"]
    words += ["--batch", "16", "--run-dir"]
    assert main([*words, str(tmp_path / "run")]) == 0
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["units"] == [4, 4, 8, classes]
    assert main([*words, str(tmp_path / "other"), "--units", "4", "4", "8", "1"]) == 1
    assert (
        f"units: expected all {classes} outputs of the last layer, got 1; "
        f"try {classes} as the last number"
    ) in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
