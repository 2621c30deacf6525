"""The evolutionary algorithm: selection, schedules, one generation, a whole run, the command."""

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from evokern import Dense, Flatten, MaxPool2d, Network, ops
from evokern.__main__ import main
from evokern.checkpoint import load_network, save_network
from evokern.drivers.ea import (
    EAConfig,
    first_generation,
    next_generation,
    mutation_strength,
    select_parents,
)
from evokern.drivers.run import run_folder
from evokern.drivers.train import RunConfig, train
from evokern.errors import ArgumentError, CheckpointError, DataError, MemoryLimitError
from evokern.metrics import read_metrics
from evokern.population import allocate_genomes
from evokern.problems import datasets
from evokern.problems.classification import (
    Classification,
    ClassificationConfig,
    thesis_network,
)
from evokern.problems.datasets import Dataset
from evokern.schedules import exponential_decay
from evokern.selection import draw_truncation, rank

SMALL = Network((MaxPool2d(2), Flatten(), Dense(8, "relu"), Dense(10)), (1, 28, 28))


@pytest.fixture
def digits() -> Dataset:
    """Ten classes that a linear network could tell apart: a bright row of pixels each."""
    rng = np.random.default_rng(3)

    def part(n: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(n, dtype=np.uint8) % 10
        images = rng.integers(0, 60, (n, 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[2 * label + 4] = 255
        return images, labels

    return Dataset("digits", *part(400), *part(100))


def problem_of(dataset: Dataset, **options: int) -> Classification:
    settings = {"batch": 64, "seed": 1, **options}
    config = ClassificationConfig(batch=settings["batch"])
    return Classification(dataset, SMALL, config, seed=settings["seed"])


def config_of(**options: object) -> EAConfig:
    values = {"population": 20, "generations": 12, "sigma": 0.1, "seed": 1}
    return EAConfig(**{**values, **options})  # type: ignore[arg-type]


def test_rank_puts_nan_last_and_settles_ties_by_number():
    fitness = np.array([-2, np.nan, -1, -np.inf, -1, np.inf, np.nan], np.float32)
    assert_array_equal(rank(fitness), [5, 2, 4, 0, 3, 1, 6])


def test_truncation_draws_places_of_the_best_only():
    places = draw_truncation(10, 2, 500, seed=3, generation=4, first=0)
    assert places.dtype == np.int32
    assert places.shape == (2, 500)
    assert set(places.ravel()) == set(range(10))
    shard = draw_truncation(10, 2, 200, seed=3, generation=4, first=300)
    assert_array_equal(shard, places[:, 300:])


def test_exponential_decay_is_rounded_once():
    assert exponential_decay(0.01, 0.999, 0) == np.float32(0.01)
    exact = Fraction("0.01") * Fraction("0.999") ** 2000
    assert exponential_decay(0.01, 0.999, 2000) == np.float32(float(exact))


def test_slots_are_elites_then_crossover_then_mutation():
    config = config_of(elites=0.1, crossover_share=0.5)
    order = np.arange(20, dtype=np.int32)
    parents = select_parents(order, config, 3)
    assert_array_equal(parents[:, :2], [[0, 1], [0, 1]])
    assert (parents[0, 2:12] != parents[1, 2:12]).any()
    assert (parents[0] <= parents[1]).all()  # the fitter first
    assert_array_equal(parents[0, 12:], parents[1, 12:])
    assert parents.max() < 10
    strength = mutation_strength(np.full(20, 0.1, np.float32), config)
    assert_array_equal(strength, np.repeat(np.float32([0, 0.1]), [12, 8]))


def test_a_generation_keeps_elites_and_recombines_parents(digits):
    problem, config = problem_of(digits), config_of(elites=0.1, crossover_share=0.5)
    population = first_generation(problem, config)
    before = population.genomes[population.rows]
    following = next_generation(population, problem, config, 1)
    after = following.genomes[following.rows]
    order = rank(population.fitness)
    parents = select_parents(order, config, 1)
    assert_array_equal(after[:2], before[order[:2]])
    for slot in range(2, 12):
        first, second = before[parents[:, slot]]
        assert ((after[slot] == first) | (after[slot] == second)).all()
    samples = problem.batch_of(1)
    loss, _ = ops.network_loss(after, SMALL, problem.train.x[samples], problem.train.y[samples])
    assert_array_equal(following.fitness, -loss)


def test_batches_go_through_every_epoch_without_replacement(digits):
    problem = problem_of(digits, batch=50)  # 360 training samples: batches cross epochs
    samples = np.concatenate([problem.batch_of(generation) for generation in range(36)])
    for epoch in range(5):
        assert_array_equal(np.sort(samples[epoch * 360 : (epoch + 1) * 360]), np.arange(360))
    assert (samples[:360] != samples[360:720]).any()
    assert_array_equal(problem.batch_of(3), samples[150:200])


def test_two_runs_of_one_seed_are_the_same_and_learn(digits, tmp_path):
    config = config_of(generations=300, population=40, crossover_share=0.6)
    results = []
    for name in ("a", "b"):
        results.append(train(problem_of(digits), config, tmp_path / name, RunConfig(log_every=10)))
    files = [tmp_path / name / "best.safetensors" for name in ("a", "b")]
    genomes = [load_network(file)[1]["genomes"] for file in files]
    assert_array_equal(genomes[0].view(np.uint32), genomes[1].view(np.uint32))
    assert results[0].test_accuracy == results[1].test_accuracy
    assert results[0].test_accuracy > 0.5  # chance is 0.1
    records = read_metrics(tmp_path / "a" / "metrics.jsonl")
    assert [record["generation"] for record in records] == list(range(10, 301, 10))
    assert records[-1]["fitness/best"] > records[0]["fitness/best"]
    assert (tmp_path / "a" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "a" / "config.json").read_text())["population"] == 40


def test_a_saved_network_gives_the_same_outputs(tmp_path):
    network = thesis_network()
    genomes = ops.init_genomes(network.layout, 1, seed=5)
    path = tmp_path / "best.safetensors"
    save_network(path, network, genomes[0], facts={"test_accuracy": 0.9})
    loaded, tensors, facts = load_network(path)
    assert loaded == network
    assert_array_equal(tensors["genomes"], genomes[0])
    assert facts == {"test_accuracy": 0.9}
    assert [entry.name for entry in tmp_path.iterdir()] == ["best.safetensors"]


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, b"\xff" * 16])
def test_a_file_that_is_no_network_is_refused(tmp_path, content):
    path = tmp_path / "best.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"best\.safetensors: not a network"):
        load_network(path)


def test_a_run_folder_is_taken_by_the_same_settings_only(tmp_path):
    wanted = tmp_path / "runs" / "mnist"
    assert run_folder(wanted, {"seed": 1}) == wanted
    wanted.mkdir(parents=True)
    (wanted / "config.json").write_text('{"seed": 1}')
    assert run_folder(wanted, {"seed": 1}) == wanted
    assert run_folder(wanted, {"seed": 2}).name == "mnist-2"


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"population": 0}, "population"),
        ({"elites": 1.5}, "elites"),
        ({"elites": -1}, "elites"),
        ({"elites": 0.5, "crossover_share": 0.6}, "elites \\+ crossover_share"),
        ({"sigma": -0.1}, "sigma"),
        ({"sigma": float("nan")}, "sigma"),
        ({"sigma_decay": 0.0}, "sigma_decay"),
    ],
)
def test_settings_out_of_range_are_refused(options, name):
    with pytest.raises(ArgumentError, match=f"^{name}: expected"):
        config_of(**options)


def test_a_batch_larger_than_the_data_is_refused(digits):
    with pytest.raises(ArgumentError, match="batch: expected 1 to 360 samples, got 361"):
        problem_of(digits, batch=361)


def test_a_population_that_does_not_fit_says_what_would(monkeypatch):
    monkeypatch.setattr("evokern.memory.available_bytes", lambda: 1 << 30)
    with pytest.raises(MemoryLimitError, match=r"36\.90 GB asked, 1\.07 GB there; \d+ of 100000"):
        allocate_genomes(100_000, 92_234)


def test_rows_are_aligned_for_kernels():
    genomes = allocate_genomes(3, 33)
    assert genomes.shape == (3, 33)
    assert genomes.ctypes.data % 128 == 0
    assert genomes.strides == (256, 4)


def test_the_command_runs_and_says_where_everything_is(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(datasets, "load", lambda name: replace(digits, name=name))
    monkeypatch.chdir(tmp_path)
    settings = ["--population", "10", "--batch", "32", "--generations", "3", "--log-every", "1"]
    assert main(["ea", "mnist", "--preset", "quick", *settings]) == 0
    output = capsys.readouterr().out
    assert "generation 3/3" in output
    assert "test accuracy" in output
    assert "runs/mnist-quick/best.safetensors" in output
    config = json.loads((tmp_path / "runs/mnist-quick/config.json").read_text())
    assert (config["population"], config["crossover_share"]) == (10, 0.8)


def test_the_command_reports_a_setting_out_of_range_without_a_traceback(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["ea", "mnist", "--elites", "2.5"])
    assert stop.value.code == 2
    assert "elites: expected a count >= 0 or a share in [0, 1], got 2.5" in capsys.readouterr().err


def test_the_command_reports_missing_data_without_a_traceback(monkeypatch, capsys):
    def fail(name: str) -> Dataset:
        raise DataError(f"{name}: no source answered")

    monkeypatch.setattr(datasets, "load", fail)
    assert main(["ea", "mnist"]) == 1
    assert capsys.readouterr().err == "evokern ea: mnist: no source answered\n"


def test_doctor_names_every_op_and_the_reason_for_empty_cells(capsys):
    assert main(["doctor"]) == 0
    output = capsys.readouterr().out
    for word in ("crossover_mutate", "network_loss", "instruction set", "cuda: not built"):
        assert word in output
