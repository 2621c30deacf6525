"""The evolution strategy: against one written with NumPy, its rules, whole runs, the command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import threads
from numpy.testing import assert_array_equal
from scalar_rules import F

from evokern import Affine, Conv2d, Dense, Flatten, MaxPool2d, Network, Residual, ops
from evokern.__main__ import main
from evokern.drivers.es import ES, ESConfig, next_generation
from evokern.drivers.train import WatchConfig
from evokern.drivers.train_es import train_es
from evokern.errors import ArgumentError, DtypeError, FitnessError, ShapeError
from evokern.metrics import read_metrics
from evokern.nes import rank_utilities
from evokern.problems import datasets
from evokern.problems.classification import Classification, ClassificationConfig
from evokern.problems.datasets import Dataset

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


def test_cycle_spreads_the_turns() -> None:
    assert ESConfig(turns=(1,)).cycle == (0,)
    assert ESConfig(turns=(1, 1, 5)).cycle == (2, 2, 0, 2, 1, 2, 2)
    assert ESConfig(turns=(2, 0, 3)).cycle == (2, 0, 2, 0, 2)
    config = ESConfig(turns=(1, 1, 5))
    assert [config.block_at(generation) for generation in (1, 3, 8, 12)] == [2, 0, 2, 1]


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
            np.zeros((1, 7), np.int32),
            np.ones(7, F),
            kind="none",
            seed=9,
            generation=generation,
        )
        np.testing.assert_allclose(offspring, before + sigma * noise[1:], rtol=0, atol=1e-6)
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


def test_tails_leave_the_first_layers_alone() -> None:
    es = ES(LAYOUT, ESConfig(population=5, turns=(0, 1, 1), seed=2))
    first = LAYOUT.offsets[1]
    for block in (1, 2, 1, 2):
        before = es.centre.copy()
        own = LAYOUT.offsets[block]
        genomes = es.ask()
        assert (genomes[:, :own] == before[:, :own]).all()
        assert (genomes[:, own:] != before[:, own:]).any(axis=0).all()
        es.tell(sphere(genomes))
        assert (es.centre[:, :own] == before[:, :own]).all()
        assert (es.centre[:, own:] != before[:, own:]).any()
    assert_array_equal(es.centre[:, :first], ops.init_genomes(LAYOUT, 1, seed=2)[:, :first])


def test_it_finds_the_best_genome() -> None:
    es = ES(LAYOUT, ESConfig(population=60, sigma=0.1, learning_rate=8, sigma_decay=0.99))
    start = sphere(es.centre)[0]
    for _ in range(300):
        es.tell(sphere(es.ask()))
    assert sphere(es.average)[0] > 0.01 * start


@pytest.mark.parametrize("turns", [(1,), (1, 1, 3), (0, 0, 1)])
@pytest.mark.parametrize("settings", [{}, {"sampling": "importance", "importance_every": 3}])
def test_tails_are_evaluated_as_whole_networks(
    dataset: Dataset, turns: tuple[int, ...], settings: dict[str, Any]
) -> None:
    """Bit for bit: whole genomes on the same batch have the same fitness."""
    problem, whole = problem_of(dataset, **settings), problem_of(dataset, **settings)
    es = ES(LAYOUT, ESConfig(population=9, turns=turns, seed=4))
    other = ES(LAYOUT, ESConfig(population=9, turns=turns, seed=4))
    rows = np.arange(10, dtype=np.int32)
    for generation in range(1, 8):
        genomes = np.concatenate([other.centre, other.ask()])  # importance looks at the first
        expected = whole.evaluate(genomes, rows, generation)[1:]
        assert_array_equal(next_generation(es, problem), expected)
        other.tell(expected)
        assert_array_equal(es.centre, other.centre)
        assert_array_equal(es.average, other.average)


@pytest.mark.parametrize("objective", ["accuracy", "mse", "macro_f1"])
def test_objectives(dataset: Dataset, objective: Any) -> None:
    problem = problem_of(dataset, objective=objective)
    es = ES(LAYOUT, ESConfig(population=9, turns=(1, 2)))
    tails = [es.ask_tails()]
    block, bank, rows = tails[0]
    genomes = es.ask()
    expected = problem.evaluate(genomes, np.arange(9, dtype=np.int32), 1)
    assert_array_equal(problem.evaluate_tails(es.centre, block, bank, rows, 1), expected)


def test_indirect_weights_have_no_tails(dataset: Dataset) -> None:
    es = ES(LAYOUT, ESConfig())
    with pytest.raises(ArgumentError, match="phenotype: expected direct"):
        next_generation(es, problem_of(dataset, phenotype="sign"))


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"population": 1}, ArgumentError, "population: expected an int in"),
        ({"population": 2.0}, DtypeError, "population: expected an int"),
        ({"generations": 0}, ArgumentError, "generations: "),
        ({"sigma": -0.1}, ArgumentError, "sigma: expected a number in"),
        ({"sigma": float("nan")}, ArgumentError, "sigma: "),
        ({"sigma": 0}, ArgumentError, "sigma: expected a float32 > 0"),
        ({"anneal": "rate"}, ArgumentError, "anneal: expected one of"),
        ({"learning_rate": float("inf")}, ArgumentError, "learning_rate: "),
        ({"learning_rate": "1"}, DtypeError, "learning_rate: expected a number"),
        ({"sigma_schedule": "self_adaptive"}, ArgumentError, "sigma_schedule: expected one of"),
        ({"sigma_decay": 0}, ArgumentError, "sigma_decay: expected a factor"),
        ({"average_share": 1.5}, ArgumentError, "average_share: expected a share"),
        ({"weight_decay": -0.1}, ArgumentError, "weight_decay: expected a share"),
        ({"turns": (0, 0)}, ArgumentError, "turns: expected 1 to 10000 turns"),
        ({"turns": ()}, ArgumentError, "turns: "),
        ({"turns": (1, -1)}, ArgumentError, "turns: expected an int"),
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
    with pytest.raises(ArgumentError, match="turns: expected at most one number per layer"):
        ES(LAYOUT, ESConfig(turns=(1, 1, 1, 1)))
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
    CONFIG = ESConfig(population=20, generations=60, sigma=0.1, turns=(1, 0, 2), seed=1)
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
                es = ES(LAYOUT, ESConfig(population=33, turns=(1, 1, 2), seed=7))
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
    assert main([*words, "--batch", "16", "--turns", "1", "0", "2"]) == 0
    output = capsys.readouterr().out
    assert "4 networks of" in output
    assert "test accuracy" in output
    config = json.loads((tmp_path / f"runs/mnist-{preset}/config.json").read_text())
    assert (config["algorithm"], config["turns"]) == ("es", [1, 0, 2])
    for wrong in (["--preset", preset, "--elites", "1"], ["--turns", "1"]):
        with pytest.raises(SystemExit) as stop:
            main(["ea", "mnist", *wrong])
        assert stop.value.code == 2
