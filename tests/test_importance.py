"""Batches by importance: chances, weights, what a problem makes of them, and resumed runs."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from numpy.testing import assert_allclose, assert_array_equal

from evokern import ops
from evokern.drivers.es import ESConfig
from evokern.drivers.train import train
from evokern.drivers.train_es import train_es
from evokern.errors import ArgumentError, DtypeError, RunStopped
from evokern.problems.classification import Classification, ClassificationConfig
from evokern.problems.importance import ImportanceSampler, errors_of
from evokern.testing import assert_same_bits

F = np.float32
SAMPLES = [3, 3, 3, 0, 1, 3, 3, 1]
IMPORTANCE = ClassificationConfig(batch=4, sampling="importance", importance_every=2)


@pytest.fixture(autouse=True)
def _quickly() -> Iterator[None]:
    with tiny.quickly():
        yield


def problem(
    config: ClassificationConfig = IMPORTANCE, kind: type[Classification] = Classification
) -> Classification:
    return kind(tiny.dataset(), tiny.NETWORK, config, seed=1)


def sampler(errors: list[float], uniform_share: float = 0.2) -> ImportanceSampler:
    drawn = ImportanceSampler(len(errors), uniform_share, seed=7)
    drawn.tell(np.array(errors, F))
    return drawn


def test_errors_are_what_the_softmax_leaves_of_the_label() -> None:
    logits = np.array([[0, 0, 0, 0], [100, 0, 0, 0], [0, 100, 0, 0], [np.nan, 0, 0, 0]], F)
    errors = errors_of(logits, np.array([2, 0, 0, 1]))
    assert errors.tolist() == [0.75, 0, 1, 1]
    logits = np.random.default_rng(0).standard_normal((50, 10)).astype(F)
    labels = np.arange(50) % 10
    chances = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(1, keepdims=True)
    assert_allclose(errors_of(logits, labels), 1 - chances[np.arange(50), labels], atol=1e-6)
    assert errors_of(np.full((1, 2), np.inf, F), np.array([0])).tolist() == [1]


def test_draws_are_known_numbers() -> None:
    samples, weights = sampler([0.5, 0.5, 0, 1]).draw(8, generation=3)
    assert samples.tolist() == SAMPLES
    # chances 0.05 + 0.8 * (0.25, 0.25, 0, 0.5): 0.25, 0.25, 0.05, 0.45
    assert_array_equal(weights, (1 / (4 * np.array([0.25, 0.25, 0.05, 0.45])))[samples].astype(F))


def test_chances_are_those_of_the_errors_and_weights_undo_them() -> None:
    errors = np.random.default_rng(1).random(40).astype(F) ** 8
    drawn = sampler(errors.tolist())
    samples, weights = drawn.draw(200_000, generation=0)
    expected = 0.2 / 40 + 0.8 * errors / errors.sum(dtype=float)
    assert_allclose(np.bincount(samples, minlength=40) / len(samples), expected, atol=0.003)
    assert_allclose(weights * expected[samples] * 40, 1, rtol=1e-6)
    assert weights.max() <= 1 / F(0.2)
    losses = np.arange(40.0)
    assert_allclose((weights * losses[samples]).mean(), losses.mean(), rtol=0.01)


def test_without_errors_and_with_a_share_of_one_all_are_alike() -> None:
    for drawn in (sampler([0] * 5), sampler([0, 0, 1, 0, 0], 1), ImportanceSampler(5, 0.2, 7)):
        samples, weights = drawn.draw(1000, generation=1)
        assert_allclose(np.bincount(samples) / 1000, 0.2, atol=0.05)
        assert_allclose(weights, 1, rtol=1e-6)
    assert sampler([1]).draw(3, generation=0)[0].tolist() == [0, 0, 0]


def test_generations_and_seeds_draw_apart() -> None:
    drawn = sampler([1] * 1000)
    first, second = (drawn.draw(50, generation)[0].tolist() for generation in (1, 2))
    assert first != second
    assert first == drawn.draw(50, generation=1)[0].tolist()
    assert first != ImportanceSampler(1000, 0.2, seed=8).draw(50, generation=1)[0].tolist()


@pytest.mark.parametrize("objective", ["cross_entropy", "mse"])
def test_fitness_is_minus_the_weighted_loss_of_what_was_drawn(objective: str) -> None:
    config = ClassificationConfig(batch=4, sampling="importance", objective=objective)
    task = problem(config)
    genomes = ops.init_genomes(task.layout, 5, seed=2)
    rows = np.array([3, 0, 4], np.int32)
    fitness = task.evaluate(genomes, rows, 100)
    errors = errors_of(task.logits(genomes[3:4], task.train)[0], task.train.y)
    drawn = ImportanceSampler(len(errors), 0.2, seed=1)
    drawn.tell(errors)
    samples, weights = drawn.draw(4, 100)
    labels = task.train.y[samples]
    loss, _ = ops.network_loss(
        genomes,
        task.network,
        task.train.x[samples],
        np.eye(3, dtype=F)[labels] if objective == "mse" else labels,
        index=rows,
        sample_weights=weights,
        loss=objective,
        backend="reference",
    )
    assert_same_bits(fitness, -loss)


def test_importance_is_measured_every_so_often() -> None:
    task = problem()
    genomes = ops.init_genomes(task.layout, 2, seed=2)
    rows = np.arange(2, dtype=np.int32)
    seen = []
    for generation in range(1, 6):
        task.evaluate(genomes * F(generation), rows, generation)
        seen.append(task.state()["importance.errors"].tolist())
    assert seen[0] == [1] * 54
    assert seen[1] != seen[0]
    assert seen[2] == seen[1]
    assert seen[3] != seen[2]
    assert seen[4] == seen[3]


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_run_that_was_stopped_ends_like_one_that_was_not(tmp_path: Path, stop: int) -> None:
    train(problem(), tiny.config(), tmp_path / "unbroken", tiny.OPTIONS)
    stopping = problem(kind=tiny.Hooked)
    assert isinstance(stopping, tiny.Hooked)
    stopping.hook = lambda now: signal.raise_signal(signal.SIGTERM) if now == stop else None
    with pytest.raises(RunStopped):
        train(stopping, tiny.config(), tmp_path / "stopped", tiny.OPTIONS)
    train(problem(), tiny.config(), tmp_path / "stopped", tiny.OPTIONS)
    assert tiny.outcome(tmp_path / "stopped") == tiny.outcome(tmp_path / "unbroken")


def test_bad_settings_are_refused() -> None:
    def config(**settings: object) -> ClassificationConfig:
        return ClassificationConfig(batch=4, **settings)  # type: ignore[arg-type]

    for share in (0, 1.5, float("nan")):
        with pytest.raises(ArgumentError, match=r"^uniform_share: expected a share in \(0, 1\]"):
            config(uniform_share=share)
    with pytest.raises(DtypeError, match=r"^uniform_share: expected a number, got str"):
        config(uniform_share="0.2")
    with pytest.raises(ArgumentError, match=r"^importance_every: "):
        config(importance_every=0)
    with pytest.raises(ArgumentError, match=r"^sampling: expected .*epochs.*importance"):
        config(sampling="hard")
    with pytest.raises(ArgumentError, match=r"^objective: expected cross_entropy or mse with"):
        config(sampling="importance", objective="accuracy")
    with pytest.raises(ArgumentError, match=r"^sampling: expected epochs with an objective of"):
        Classification(
            tiny.dataset(), tiny.NETWORK, IMPORTANCE, seed=1, objective=lambda z, y: z[:, 0, 0]
        )


@pytest.mark.parametrize("algorithm", ["genetic", "strategy"])
def test_a_problem_brings_nothing_from_one_run_to_the_next(algorithm: str, tmp_path: Path) -> None:
    def outcome(task: Classification, folder: Path) -> dict[str, Any]:
        if algorithm == "genetic":
            train(task, tiny.config(evaluate_first=False), folder, tiny.OPTIONS)
        else:
            config = ESConfig(population=8, generations=6, sigma=0.1, learning_rate=2.0)
            train_es(task, config, folder, tiny.WATCH)
        return tiny.outcome(folder)

    task = tiny.problem_by_importance()
    outcomes = [outcome(task, tmp_path / str(number)) for number in range(2)]
    assert outcomes[0] == outcomes[1] == outcome(tiny.problem_by_importance(), tmp_path / "fresh")
