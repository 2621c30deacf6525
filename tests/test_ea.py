"""The algorithm against one written an individual at a time; a whole run; the command."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from cases import threads
from ea_oracle import Individual, NoisyProblem, first_population, next_population
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from rich.console import Console
from scalar_rules import LAYOUT, F

from evokern import Dense, Flatten, MaxPool2d, Network, doctor, ops
from evokern.__main__ import main
from evokern.checkpoint import load_network, save_network
from evokern.commands.ea import PRESETS, PresetName
from evokern.commands.training import Report
from evokern.drivers.ea import (
    EA,
    EAConfig,
    first_generation,
    mutation_strength,
    next_generation,
    select_parents,
)
from evokern.drivers.run import run_folder
from evokern.drivers.train import RunConfig, train
from evokern.errors import (
    ArgumentError,
    CheckpointError,
    DataError,
    DtypeError,
    FitnessError,
    MemoryLimitError,
    ShapeError,
)
from evokern.files import locked
from evokern.layout import DenseGenes, GenomeLayout
from evokern.metrics import read_metrics
from evokern.population import Population, allocate_genomes
from evokern.problems import datasets
from evokern.problems.classification import (
    Classification,
    ClassificationConfig,
    thesis_network,
)
from evokern.problems.datasets import Dataset
from evokern.selection import rank

SMALL = Network((MaxPool2d(2), Flatten(), Dense(8, "relu"), Dense(10)), (1, 28, 28))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads would take longer to meet than these small populations take."""
    with threads(1):
        yield


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


SHARES = st.sampled_from([0.5, 0.3, 1.0, 0.05, 0.0])
GENERATIONS = 3
ALPHA = 0.6  # float32(1 - 0.6) is not float32(1) - float32(0.6)


SIGMA_RULES = [
    *({"sigma_schedule": schedule} for schedule in ("constant", "exponential", "power", "cosine")),
    *(
        {"sigma_schedule": "self_adaptive", "sigma_rule": rule, "sigma_first": first}
        for rule in ("thesis", "program")
        for first in (False, True)
    ),
]


@st.composite
def configs(draw: st.DrawFn, **fixed: Any) -> EAConfig:
    """Settings of all kinds, of few individuals."""
    population = draw(st.integers(1, 11))
    survival = draw(st.sampled_from(["plus", "comma"]))
    least = population if survival == "comma" else 1
    offspring = draw(st.none() | st.integers(least, 2 * population))
    elites, crossover_share = draw(
        st.sampled_from([(1, 0.5), (0.3, 0.7), (0, 1.0), (0.05, 0.3), (1.0, 0.0), (0.1, 0.5)])
    )
    if elites == 1.0 and offspring is not None and offspring > population:
        elites = 0.5
    options: dict[str, Any] = {
        "population": population,
        "offspring": offspring,
        "survival": survival,
        "selection": draw(st.sampled_from(["truncation", "exponential_rank", "tournament"])),
        "truncation": draw(SHARES),
        "rank_base": draw(st.sampled_from([0.9, 1.0, 0.4])),
        "tournament_size": draw(st.integers(1, 4)),
        "elites": elites,
        "crossover_share": crossover_share,
        "crossover": draw(st.sampled_from(["uniform", "arithmetic", "rows"])),
        "crossover_parents": draw(st.integers(2, 4)),
        "crossover_rate": draw(SHARES),
        "parent_weights": draw(st.sampled_from(["rank", "equal"])),
        "crossover_then_mutation": draw(st.booleans()),
        "mutation": draw(st.sampled_from(["normal", "uniform", "cauchy"])),
        "mutation_rate": draw(SHARES),
        "sigma": draw(st.sampled_from([0.1, 3.0, 0.0])),
        **draw(st.sampled_from(SIGMA_RULES)),
        "sigma_decay": draw(st.sampled_from([0.9, 1.0])),
        "sigma_period": draw(st.integers(1, 3)),
        "sigma_min": draw(st.sampled_from([0.05, 0.0])),
        "tau": draw(st.sampled_from([0.5, 0.01, 0.0])),
        "alpha": draw(st.sampled_from([1.0, ALPHA, 0.0])),
        "evaluate_first": draw(st.booleans()),
        "init": draw(st.sampled_from(["glorot_uniform", "unit_rows"])),
        "seed": draw(st.sampled_from([1, 2**63 + 5])),
    }
    try:
        return EAConfig(**(options | fixed))
    except ArgumentError:  # the quotas of one or two individuals round to more than there are
        reject()


def generations(config: EAConfig) -> Iterator[tuple[Population, int]]:
    """Populations of a run on the noisy problem; it ends early where all fitness is NaN."""
    problem = NoisyProblem(LAYOUT)
    try:
        population = first_generation(problem, config)
        yield population, 0
        for generation in range(1, GENERATIONS + 1):
            population = next_generation(population, problem, config, generation)
            yield population, generation
    except FitnessError:
        return


def assert_same(population: Population, expected: list[Individual]) -> None:
    genomes = population.genomes[population.rows]
    for number, individual in enumerate(expected):
        assert_array_equal(genomes[number].view(np.uint32), individual.genome.view(np.uint32))
    assert_array_equal(population.fitness, [individual.fitness for individual in expected])
    sigma = [individual.sigma for individual in expected]
    assert_array_equal(population.sigma.view(np.uint32), np.array(sigma, F).view(np.uint32))


@pytest.mark.parametrize("crossover", ["uniform", "arithmetic", "rows"])
@pytest.mark.parametrize("rule", SIGMA_RULES, ids=lambda rule: " ".join(map(str, rule.values())))
@given(st.data())
@settings(max_examples=15)
def test_generations_are_those_of_the_algorithm_one_individual_at_a_time(crossover, rule, data):
    config = data.draw(configs(crossover=crossover, **rule))
    expected = first_population(LAYOUT, config)
    for population, generation in generations(config):
        if generation > 0:
            expected = next_population(expected, LAYOUT, config, generation)
        assert_same(population, expected)


@given(configs())
@settings(max_examples=40)
def test_the_bank_holds_parents_and_offspring_and_elites_stay_where_they_are(config):
    written = []
    vary = ops.crossover_mutate

    def spy(genomes, parents, sigma, **options):
        written.append((set(parents.ravel()), options["out_rows"].tolist()))
        return vary(genomes, parents, sigma, **options)

    before = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "crossover_mutate", spy)
        for population, generation in generations(config):
            rows = population.rows.tolist()
            assert len(population.genomes) == config.bank_rows
            assert len(rows) == len(set(rows)) == config.population
            assert population.rows.dtype == np.int32
            if generation > 0:
                parents, out_rows = written[generation - 1]
                assert len(set(out_rows)) == len(out_rows)
                assert len(out_rows) == config.offspring_count - config.elite_count
                assert not parents & set(out_rows)
                elites = before.rows[rank(before.fitness)[: config.elite_count]]
                assert not set(elites) & set(out_rows)
                assert_array_equal(population.rows[: config.elite_count], elites)
                if config.survival == "plus":
                    assert not set(before.rows) & set(out_rows)
            before = population


@given(configs())
@settings(max_examples=40)
def test_ask_and_tell_are_a_generation_cut_in_two(config):
    problem = NoisyProblem(LAYOUT)
    ea = EA(LAYOUT, config)
    for population, generation in generations(config):
        if generation > 0 or config.evaluate_first:
            assert ea.generation == generation
            asked = ea.ask()
            assert_array_equal(asked.view(np.uint32), ea.ask().view(np.uint32))
            bank, rows = ea.ask_rows()
            assert_array_equal(bank[rows].view(np.uint32), asked.view(np.uint32))
            everyone = np.arange(len(asked))
            ea.tell(problem.evaluate(asked, everyone, generation))
        assert_array_equal(ea.population.rows, population.rows)
        assert_same(
            ea.population,
            [
                Individual(population.genome(i), population.fitness[i], population.sigma[i])
                for i in range(len(population))
            ],
        )


@given(configs(lineages=True))
@settings(max_examples=40)
def test_populations_are_replayed_from_their_lineages(config):
    for population, _ in generations(config):
        assert population.lineages is not None
        replayed = ops.replay(population.lineages, LAYOUT)
        genomes = population.genomes[population.rows]
        assert_array_equal(replayed.view(np.uint32), genomes.view(np.uint32))


def test_elites_go_on_though_all_offspring_are_better():
    layout = GenomeLayout((DenseGenes(2, 1),))
    config = EAConfig(population=4, offspring=9, elites=2, crossover_share=0)
    for survival in ("comma", "plus"):
        ea = EA(layout, replace(config, survival=survival))
        ea.ask()
        ea.tell(np.array([1, 4, 2, 3], F))
        best = ea.population.genomes[ea.population.rows[[1, 3]]]
        assert_array_equal(ea.ask()[:2], best)
        ea.tell(np.array([-9, np.nan, 1, 7, 2, 3, 6, 4, 5], F))
        assert_array_equal(ea.population.genomes[ea.population.rows[:2]], best)
        assert_array_equal(ea.population.fitness, [-9, np.nan, 7, 6])


def test_told_fitness_is_copied():
    ea = EA(LAYOUT, config_of())
    ea.ask()
    fitness = np.arange(20, dtype=F)
    ea.tell(fitness)
    fitness[:] = 0
    assert_array_equal(ea.population.fitness, np.arange(20))


def test_any_real_numbers_can_be_told():
    ea = EA(LAYOUT, config_of(population=3, elites=1))
    ea.ask()
    ea.tell([1, 0.1, 1e300])
    assert_array_equal(ea.population.fitness, F([1, 0.1, np.inf]))


def test_an_ea_takes_a_layout():
    with pytest.raises(DtypeError, match=r"^layout: expected a GenomeLayout, got Network; try"):
        EA(SMALL, config_of())


def test_what_cannot_be_told_leaves_all_as_it_was():
    ea = EA(LAYOUT, config_of())
    with pytest.raises(ArgumentError, match=r"^tell: expected a call of ask\(\) before"):
        ea.tell(np.zeros(20, F))
    for generation in range(2):
        asked = ea.ask()
        with pytest.raises(DtypeError, match=r"^fitness: expected real numbers \[S=20\], got"):
            ea.tell(np.zeros(20, complex))
        with pytest.raises(ShapeError, match=r"^fitness: expected \[S=20\], got \[20, 1\]"):
            ea.tell(np.zeros((20, 1), F))
        with pytest.raises(
            FitnessError, match=f"all 20 individuals are NaN in generation {generation}"
        ):
            ea.tell(np.full(20, np.nan, F))
        assert ea.generation == generation
        assert_array_equal(ea.ask(), asked)
        ea.tell(np.arange(20, dtype=F))
        with pytest.raises(ArgumentError, match=r"^tell: expected"):
            ea.tell(np.arange(20, dtype=F))


@pytest.mark.parametrize(
    ("fitness", "error"),
    [
        (np.zeros(20, np.bool_), DtypeError),
        (np.zeros(19, F), ShapeError),
        (np.zeros((), F), ShapeError),
        (np.full(20, np.nan, F), FitnessError),
    ],
)
def test_a_problem_that_gives_no_fitness_is_refused(fitness, error):
    class Wrong(NoisyProblem):
        def evaluate(self, genomes, rows, generation):
            return fitness if generation == self.wrong else np.zeros(20, F)

    problem, config = Wrong(LAYOUT), config_of()
    problem.wrong = 0
    with pytest.raises(error, match=r"^fitness: "):
        first_generation(problem, config)
    problem.wrong = 1
    population = first_generation(problem, config)
    with pytest.raises(error, match=r"^fitness: "):
        next_generation(population, problem, config, 1)


class Sphere:
    """-|genome - 1|^2: no network, no data, one block of genes."""

    layout = GenomeLayout((DenseGenes(11, 1),))

    def evaluate(self, genomes, rows, generation):
        return -np.square(genomes[rows] - F(1)).sum(axis=1, dtype=F)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, 0.05),
        ({"survival": "plus", "elites": 0}, 0.05),
        ({"selection": "tournament", "tournament_size": 4}, 0.05),
        ({"selection": "exponential_rank", "rank_base": 0.9}, 0.05),
        ({"sigma_schedule": "self_adaptive", "sigma_first": True, "tau": 0.3}, 0.05),
        ({"sigma_schedule": "self_adaptive", "sigma_rule": "program", "tau": 0.3}, 1e-3),
        ({"sigma_schedule": "exponential", "sigma_decay": 0.9, "sigma_period": 5}, 0.01),
        ({"sigma_schedule": "cosine", "sigma_period": 25}, 0.05),
        ({"crossover": "arithmetic", "crossover_parents": 3, "parent_weights": "rank"}, 0.1),
        ({"crossover": "rows", "crossover_then_mutation": True}, 0.05),
        ({"mutation": "uniform", "mutation_rate": 0.3}, 0.05),
        ({"offspring": 200, "alpha": 0.8}, 0.05),
    ],
)
def test_a_problem_without_a_network_is_solved(options, wanted):
    problem, config = Sphere(), EAConfig(population=50, sigma=0.1, seed=2)
    config = replace(config, **options)
    population = first_generation(problem, config)
    first = -population.fitness.max()
    for generation in range(1, 101):
        population = next_generation(population, problem, config, generation)
    assert first > 3
    assert -population.fitness.max() < wanted


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
    assert run_folder(wanted, {"seed": 2}) == wanted  # nothing was made there yet
    (wanted / "metrics.jsonl").write_text('{"generation": 1}')
    assert run_folder(wanted, {"seed": 1}) == wanted
    assert run_folder(wanted, {"seed": 2}).name == "mnist-2"
    assert run_folder(wanted, {"seed": 1.0}).name == "mnist-2"  # as checkpoints tell runs apart


def test_a_run_that_has_just_been_started_keeps_its_folder(tmp_path):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "config.json").write_text('{"seed": 1}')
    with locked(tmp_path / "mnist"):
        assert run_folder(tmp_path / "mnist", {"seed": 2}).name == "mnist-2"
        assert run_folder(tmp_path / "mnist", {"seed": 1}).name == "mnist"  # to say who is there
    assert run_folder(tmp_path / "mnist", {"seed": 2}).name == "mnist"


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
    assert main(["ea", "mnist", "--preset", "thesis-test", *settings]) == 0
    output = capsys.readouterr().out
    assert "generation 3/3" in output
    assert "test accuracy" in output
    assert "runs/mnist-thesis-test/best.safetensors" in output
    config = json.loads((tmp_path / "runs/mnist-thesis-test/config.json").read_text())
    assert (config["population"], config["crossover_share"]) == (10, 0.75)


def test_every_preset_can_be_named():
    assert tuple(PRESETS) == get_args(PresetName)


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


def test_what_is_told_of_a_run_names_its_folder_as_it_is(tmp_path, capsys):
    report = Report(tmp_path / "exp:x:1[red]", "unused", {})
    report.start("3 networks")
    assert capsys.readouterr().out == f"3 networks, in {tmp_path}/exp:x:1[red]\n"


def test_doctor_tells_reasons_as_they_are(monkeypatch):
    reason = f"is not installed; {'long ' * 40}try pip install 'evokern[triton]' :x:"
    monkeypatch.setattr(doctor, "why_not", lambda backend: reason)
    output = io.StringIO()
    doctor.report(Console(file=output, width=80))
    assert f"triton: {reason}\n" in output.getvalue()


def test_doctor_names_every_op_and_the_reason_for_empty_cells(capsys):
    assert main(["doctor"]) == 0
    output = capsys.readouterr().out
    for word in ("crossover_mutate", "network_loss", "instruction set", "back end", "cuda: "):
        assert word in output
