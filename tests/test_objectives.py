"""What an individual is worth: objectives, phenotypes, and whose function failed."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scalar_rules import F, bits

from evokern import Dense, Flatten, Network, ops
from evokern.drivers.ea import EAConfig, first_generation, next_generation
from evokern.errors import ArgumentError, DtypeError, ObjectiveError, ShapeError
from evokern.layout import DenseGenes, GenomeLayout
from evokern.problems import classification
from evokern.problems.classification import Classification, ClassificationConfig
from evokern.problems.datasets import Dataset
from evokern.problems.objectives import (
    generalized_cross_entropy,
    macro_f1,
    predictions,
    weighted_bce,
)
from evokern.problems.phenotypes import sign_of_weights

NAN = np.nan
PEOPLE = 7
BATCH = 30


def dataset(classes: int) -> Dataset:
    """Noisy 3x3 images whose brightest pixel is the class."""
    rng = np.random.default_rng(classes)

    def part(n: int) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.integers(0, classes, n, np.uint8)
        images = rng.integers(0, 120, (n, 3, 3), np.uint8)
        images.reshape(n, 9)[np.arange(n), labels] += 120
        return images, labels

    return Dataset("pixels", *part(50), *part(20), classes=classes)


def problem(classes: int = 4, outputs: int | None = None, **options: Any) -> Classification:
    settings = {
        name: options.pop(name)
        for name in ("objective", "positive_weight", "gce_q", "phenotype", "sign_scale")
        if isinstance(options.get(name), (str, float))
    }
    network = Network((Flatten(), Dense(5, "relu"), Dense(outputs or classes)), (1, 3, 3))
    config = ClassificationConfig(batch=BATCH, **settings)
    return Classification(dataset(classes), network, config, seed=3, **options)


def bank_of(task: Classification) -> tuple[np.ndarray, np.ndarray]:
    """A bank of genomes, and rows of it out of order."""
    genomes = ops.init_genomes(task.layout, PEOPLE + 4, seed=1, scheme="torch")
    return genomes, np.array([3, 10, 0, 7, 5, 4, 9], np.int32)


def evaluated(task: Classification, generation: int = 2) -> np.ndarray:
    return task.evaluate(*bank_of(task), generation)


def of_batch(task: Classification, generation: int = 2) -> tuple[np.ndarray, ...]:
    """Weights [S, G], x and y of the batch that `evaluated` uses."""
    genomes, rows = bank_of(task)
    samples = task.batch_of(generation)
    weights = np.stack([task.weights(genome) for genome in genomes[rows]])
    return weights, task.train.x[samples], task.train.y[samples]


def test_cross_entropy_mse_and_accuracy_are_those_of_the_kernel():
    task = problem()
    weights, x, y = of_batch(task)
    loss, correct = ops.network_loss(weights, task.network, x, y, backend="reference")
    assert_array_equal(evaluated(task), -loss)
    assert_array_equal(evaluated(problem(objective="accuracy")), (correct / BATCH).astype(F))
    targets = np.eye(4, dtype=F)[y]
    loss, _ = ops.network_loss(weights, task.network, x, targets, loss="mse", backend="reference")
    fitness = evaluated(problem(objective="mse"))
    assert_array_equal(fitness, -loss)
    logits = ops.network_forward(weights, task.network, x).astype(float)
    assert_allclose(fitness, -np.square(logits - targets).mean(axis=(1, 2)), rtol=1e-5)


def test_predictions_take_the_first_of_equals_and_none_of_nan():
    logits = np.array([[[1, 3, 3], [0, NAN, 9], [-np.inf, -np.inf, -1], [np.inf, 0, np.inf]]], F)
    assert_array_equal(predictions(logits), [[1, -1, 2, 0]])
    one = np.array([[[0.1], [0.0], [-0.0], [-3], [NAN], [np.inf]]], F)
    assert_array_equal(predictions(one), [[1, 0, 0, 0, -1, 1]])
    assert predictions(one).dtype == np.int64


def one_hot(predicted: list[list[int]], classes: int) -> np.ndarray:
    """Logits [S, B, C] that predict so; NaN for -1."""
    logits = np.zeros((*np.shape(predicted), classes), F)
    for place, k in np.ndenumerate(np.array(predicted)):
        logits[place] = NAN if k < 0 else np.eye(classes)[k]
    return logits


@pytest.mark.parametrize(
    ("labels", "predicted", "expected"),
    [
        ([0, 1, 2], [0, 1, 2], 1),
        ([0, 1, 2], [1, 2, 0], 0),
        ([0, 0, 1, 1], [0, 1, 1, 1], (2 / 3 + 4 / 5) / 2),  # class 2 is absent
        ([0, 0, 1, 1], [0, 2, 1, 1], (2 / 3 + 1 + 0) / 3),  # class 2 is only predicted
        ([0, 0, 2, 2], [0, 0, 0, 0], (2 / 3 + 0) / 2),  # class 2 is only a label
        ([0, 1], [-1, 1], (0 + 1) / 2),  # NaN is a miss of its label and no prediction
        ([0, 1], [-1, -1], 0),
        ([2], [2], 1),
    ],
)
def test_macro_f1_of_small_confusions(labels, predicted, expected):
    fitness = macro_f1(one_hot([predicted], 3), np.array(labels))
    assert fitness.dtype == np.float32
    assert bits(fitness) == bits([expected])


def test_macro_f1_is_that_of_every_slot():
    labels = np.array([0, 1, 2, 2])
    fitness = macro_f1(one_hot([[0, 1, 2, 2], [0, 0, 0, 0], [-1, 1, 2, 0]], 3), labels)
    assert bits(fitness) == bits([1, (2 / 5) / 3, (0 + 1 + 2 / 3) / 3])


def test_macro_f1_of_one_logit_is_the_mean_over_both_classes():
    logits = np.array([[[2], [-1], [-1], [1]], [[-1], [-1], [-1], [NAN]]], F)
    fitness = macro_f1(logits, np.array([1, 1, 0, 0]))
    assert bits(fitness) == bits([(0.5 + 0.5) / 2, (2 / 5 + 0) / 2])


@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 40))
def test_macro_f1_is_that_of_scikit_learn(seed, classes, batch):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, batch)
    predicted = rng.integers(0, rng.integers(1, classes + 1), (3, batch))
    for mine, guess in zip(macro_f1(one_hot(predicted, classes), labels), predicted, strict=True):
        theirs = metrics.f1_score(labels, guess, average="macro", zero_division=0)
        assert mine == pytest.approx(theirs, abs=1e-7)


def bce(logits: np.ndarray, targets: np.ndarray, weight: float) -> np.ndarray:
    """Eq. 3.6 in float64, mean over samples and outputs."""
    z = logits.astype(float)
    loss = weight * targets * np.logaddexp(0, -z) + (1 - targets) * np.logaddexp(0, z)
    return -loss.mean(axis=(1, 2))


LOGITS = 4 * np.random.default_rng(8).standard_normal((3, 33, 4), F)


@pytest.mark.parametrize("weight", [1.0, 0.466, 7.5])
def test_weighted_bce_is_the_formula(weight):
    rng = np.random.default_rng(2)
    objective = weighted_bce(weight)
    binary = rng.integers(0, 2, 33)
    fitness = objective(LOGITS[..., :1], binary)
    assert fitness.dtype == np.float32
    assert_allclose(fitness, bce(LOGITS[..., :1], binary[:, None], weight), rtol=2e-6)
    one_against_rest = rng.integers(0, 4, 33)
    expected = bce(LOGITS, np.eye(4)[one_against_rest], weight)
    assert_allclose(objective(LOGITS, one_against_rest), expected, rtol=2e-6)
    several = rng.integers(0, 2, (33, 4))
    for targets in (several, several.astype(bool), several.astype(F)):
        assert_allclose(objective(LOGITS, targets), bce(LOGITS, several, weight), rtol=2e-6)


def test_weighted_bce_counts_positives_by_their_weight():
    zeros = np.zeros((1, 4, 1), F)
    labels = np.array([1, 0, 0, 0])
    assert weighted_bce()(zeros, labels) == pytest.approx(-np.log(2))
    assert weighted_bce(5.0)(zeros, labels) == pytest.approx(-np.log(2) * 8 / 4)


def test_weighted_bce_of_extreme_logits():
    logits = np.array([[[1e4], [-1e4]], [[-1e4], [1e4]], [[np.inf], [-np.inf]]], F)
    logits = np.concatenate([logits, [[[-np.inf], [0]], [[NAN], [0]]]]).astype(F)
    assert_array_equal(weighted_bce(2.0)(logits, np.array([1, 0])), [0, -15e3, 0, -np.inf, NAN])


@pytest.mark.torch
@pytest.mark.parametrize("weight", [1.0, 0.466, 7.5])
def test_weighted_bce_is_that_of_torch(weight):
    torch = pytest.importorskip("torch")
    loss = partial(
        torch.nn.functional.binary_cross_entropy_with_logits, pos_weight=torch.tensor(weight)
    )
    targets = np.random.default_rng(2).integers(0, 2, (33, 4))
    fitness = weighted_bce(weight)(LOGITS, targets)
    for mine, logits in zip(fitness, LOGITS, strict=True):
        theirs = loss(torch.tensor(logits), torch.tensor(targets, dtype=torch.float32))
        assert mine == pytest.approx(-float(theirs), rel=2e-6)


@pytest.mark.parametrize("q", [1e-30, 1e-8, 1e-3, 0.5, 0.7, 1.0])
def test_generalized_cross_entropy_is_the_formula(q):
    labels = np.random.default_rng(2).integers(0, 4, 33)
    fitness = generalized_cross_entropy(q)(LOGITS, labels)
    assert fitness.dtype == np.float32
    exponentials = np.exp(LOGITS.astype(np.float64))
    p = (exponentials / exponentials.sum(-1, keepdims=True))[:, np.arange(33), labels]
    assert_allclose(fitness, (np.expm1(q * np.log(p)) / q).mean(-1), rtol=2e-6)
    if q < 0.01:
        assert_allclose(fitness, np.log(p).mean(-1), rtol=0.01)


def test_generalized_cross_entropy_of_known_logits():
    even = np.zeros((1, 2, 4), F)
    assert_array_equal(generalized_cross_entropy(1.0)(even, np.array([0, 3])), [-0.75])
    assert_array_equal(generalized_cross_entropy(0.5)(even, np.array([0, 3])), [-1.0])
    logits = np.array([[[1e4, 0]], [[0, 1e4]], [[NAN, 0]], [[np.inf, 0]], [[-np.inf, 0]]], F)
    fitness = generalized_cross_entropy(0.5)(logits, np.array([0]))
    assert_array_equal(fitness, [0, -2, NAN, NAN, -2])


@pytest.mark.parametrize("q", [0.0, -1.0, 1.1, NAN, 1e-46])
def test_a_q_that_is_no_share_is_refused(q):
    for make in (generalized_cross_entropy, lambda q: ClassificationConfig(gce_q=q)):
        with pytest.raises(ArgumentError, match=r"^gce_q: expected a float32 in \(0, 1\]"):
            make(q)


@pytest.mark.parametrize(
    ("labels", "logits", "error", "words"),
    [
        ([0, 4], (1, 2, 4), ArgumentError, r"classes in \[0, 4\), got labels\[1\] = 4"),
        ([-1, 0], (1, 2, 4), ArgumentError, r"classes in \[0, 4\), got labels\[0\] = -1"),
        ([0, 2], (1, 2, 1), ArgumentError, r"classes in \[0, 2\), got labels\[1\] = 2"),
        ([0.0, 1.0], (1, 2, 4), DtypeError, r"integers \[B\], got float64"),
    ],
)
def test_labels_that_no_output_stands_for_are_refused(labels, logits, error, words):
    objectives = [macro_f1, weighted_bce()]
    if logits[-1] > 1:
        objectives.append(generalized_cross_entropy())
    for objective in objectives:
        with pytest.raises(error, match=f"^labels: expected {words}"):
            objective(np.zeros(logits, F), np.array(labels))


def test_targets_of_several_classes_are_checked():
    with pytest.raises(ShapeError, match=r"^labels: expected \[B, C=4\], got \[2, 3\]"):
        weighted_bce()(np.zeros((1, 2, 4), F), np.zeros((2, 3), np.int64))
    with pytest.raises(ArgumentError, match=r"^labels: expected \[B, C\] of 0 and 1, got 0.5"):
        weighted_bce()(np.zeros((1, 1, 4), F), np.array([[0, 1, 0.5, 0]]))


@pytest.mark.parametrize("weight", [0.0, -1.0, NAN, np.inf, 1e39, 1e-46])
def test_a_weight_that_is_no_positive_number_is_refused(weight):
    with pytest.raises(ArgumentError, match=r"positive_weight: expected a finite float32 > 0"):
        problem(classes=2, outputs=1, objective="weighted_bce", positive_weight=weight)


def test_named_objectives_of_logits_are_applied_to_the_batch():
    named = {"macro_f1": macro_f1, "weighted_bce": weighted_bce(3.0)}
    named["generalized_cross_entropy"] = generalized_cross_entropy(0.4)
    for name, objective in named.items():
        task = problem(objective=name, positive_weight=3.0, gce_q=0.4)
        weights, x, y = of_batch(task)
        logits = ops.network_forward(weights, task.network, x)
        assert_array_equal(evaluated(task), objective(logits, y))


def test_a_network_of_one_output_tells_two_classes_apart():
    task = problem(classes=2, outputs=1, objective="accuracy")
    weights, x, y = of_batch(task)
    right = (ops.network_forward(weights, task.network, x)[..., 0] > 0) == y
    assert_array_equal(evaluated(task), right.mean(axis=1).astype(F))
    assert_array_equal(task.accuracy(weights, classification.Part(x, y)), right.mean(axis=1))
    assert 0 < right.mean() < 1
    for name in ("cross_entropy", "mse", "generalized_cross_entropy"):
        with pytest.raises(ArgumentError, match=r"objective: expected weighted_bce, macro_f1 or"):
            problem(classes=2, outputs=1, objective=name)


def test_a_network_of_too_few_outputs_is_refused():
    with pytest.raises(ArgumentError, match=r"network: expected more than 3 outputs .* got 3"):
        problem(classes=4, outputs=3)
    with pytest.raises(ArgumentError, match=r"network: expected more than 2 outputs .* got 1"):
        problem(classes=3, outputs=1, objective="accuracy")
    assert problem(classes=4, outputs=3, objective=lambda logits, labels: logits[:, 0, 0])


def test_any_function_of_logits_is_an_objective():
    def worst_margin(logits, labels):
        return [float(of_one.max() - of_one.min()) for of_one in logits]  # a list of float

    task = problem(objective=worst_margin)
    weights, x, _ = of_batch(task)
    logits = ops.network_forward(weights, task.network, x)
    assert_array_equal(evaluated(task), np.ptp(logits, axis=(1, 2)))
    counts = problem(objective=lambda logits, labels: (logits.argmax(2) == labels).sum(1))
    assert_array_equal(evaluated(counts), F(BATCH) * evaluated(problem(objective="accuracy")))


@pytest.mark.torch
def test_an_objective_may_be_written_in_torch():
    torch = pytest.importorskip("torch")

    def nll(logits, labels):
        scores = torch.log_softmax(torch.from_numpy(logits), dim=2)
        return scores[:, torch.arange(len(labels)), torch.from_numpy(labels)].mean(dim=1)

    assert_allclose(evaluated(problem(objective=nll)), evaluated(problem()), rtol=1e-5)


@pytest.mark.parametrize(
    "result",
    [
        np.zeros(PEOPLE + 1),
        np.zeros((PEOPLE, 1), F),
        np.zeros(PEOPLE, bool),
        np.zeros(PEOPLE, complex),
        np.zeros(PEOPLE, "U1"),
        np.float32(0),
        None,
    ],
)
def test_an_objective_that_gives_no_number_per_individual_is_refused(result):
    with pytest.raises(ObjectiveError, match=r"^objective: expected numbers \[S=7\], one per ind"):
        evaluated(problem(objective=lambda logits, labels: result))


def failing_on(logits_of_one: np.ndarray):
    def objective(logits, labels):
        for one in logits:
            if (one == logits_of_one).all():
                raise ZeroDivisionError("no such loss")
        return logits[:, 0, 0]

    return objective


@pytest.mark.parametrize("individual", range(PEOPLE))
@pytest.mark.parametrize("rows_at_once", [1, 3, 100])
def test_an_objective_that_fails_names_the_individual(individual, rows_at_once, monkeypatch):
    task = problem()
    weights, x, _ = of_batch(task)
    logits = ops.network_forward(weights, task.network, x)
    row_bytes = 4 * max(BATCH * 4, task.network.layout.size)
    monkeypatch.setattr(classification, "_SCRATCH_BYTES", rows_at_once * row_bytes)
    words = f"^objective: failed on individual {individual}: ZeroDivisionError: no such loss"
    with pytest.raises(ObjectiveError, match=words) as caught:
        evaluated(problem(objective=failing_on(logits[individual])))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_an_objective_that_fails_on_many_at_once_says_so():
    def alone(logits, labels):
        if len(logits) > 1:
            raise ValueError("one at a time")
        return logits[:, 0, 0]

    words = "failed on individuals 0 to 6 at once, though on none of them alone: ValueError: one at"
    with pytest.raises(ObjectiveError, match=words):
        evaluated(problem(objective=alone))


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "macro_f1"},
        {"objective": "weighted_bce"},
        {"phenotype": "sign"},
        {"phenotype": "sign", "objective": "accuracy"},
        {"objective": lambda logits, labels: logits.sum(axis=(1, 2))},
        {"phenotype": lambda genome: genome * F(2)},
    ],
    ids=str,
)
def test_pieces_do_not_show_in_results(options, monkeypatch):
    task = problem(**options)
    genomes, _ = bank_of(task)
    whole = evaluated(task), task.accuracy(genomes, task.test), task.logits(genomes, task.test)
    assert len(set(whole[0])) > 1
    for size in (1, 3000):
        monkeypatch.setattr(classification, "_SCRATCH_BYTES", size)
        assert_array_equal(bits(evaluated(task)), bits(whole[0]))
        assert_array_equal(task.accuracy(genomes, task.test), whole[1])
        assert_array_equal(bits(task.logits(genomes, task.test)), bits(whole[2]))


SIGNS = GenomeLayout((DenseGenes(4, 1), DenseGenes(2, 2)))
GENES = np.array([3, -0.0, 0.0, -1e-30, -7, 0.5, NAN, -2, np.inf, -0.0, 0.25], F)


def test_signs_of_weights_are_scaled_by_the_layer():
    before = GENES.copy()
    weights = sign_of_weights(SIGNS)(GENES)
    half = F(0.70710678)  # 1 / sqrt(2)
    assert weights.dtype == np.float32
    assert bits(weights[:6]) == bits([0.5, -0.5, 0.5, -0.5, -7, half])
    assert abs(weights[6]) == half
    assert bits(weights[7:]) == bits([-half, half, -0.0, 0.25])
    assert bits(GENES) == bits(before)


def test_signs_of_weights_take_a_scale():
    weights = sign_of_weights(SIGNS, 0.1)(GENES[None].repeat(2, axis=0)[1])
    assert bits(weights[:6]) == bits([0.1, -0.1, 0.1, -0.1, -7, 0.1])
    task = problem(phenotype="sign", sign_scale=0.25)
    genomes, _ = bank_of(task)
    for (found, bias), (weight, own) in zip(
        task.network.layout.split(task.weights(genomes[1])),
        task.network.layout.split(genomes[1]),
        strict=True,
    ):
        assert_array_equal(found, np.copysign(F(0.25), weight))
        assert_array_equal(bias, own)


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e-50, 1e39, NAN, np.inf])
def test_a_scale_that_float32_cannot_hold_is_refused(scale):
    with pytest.raises(ArgumentError, match=r"^sign_scale: expected a number in"):
        problem(phenotype="sign", sign_scale=scale)


def test_signs_are_what_is_evaluated():
    task = problem(phenotype="sign")
    weights, x, y = of_batch(task)
    assert set(np.abs(weights[:, :45]).ravel()) == {F(1 / 3)}  # 9 inputs
    assert_array_equal(evaluated(task), -ops.network_loss(weights, task.network, x, y)[0])
    genomes, rows = bank_of(task)
    logits = task.logits(genomes[rows], classification.Part(x, y))
    assert_array_equal(logits, ops.network_forward(weights, task.network, x))


def low_rank(genome: np.ndarray) -> np.ndarray:
    """9x4 weights as an outer product of 9 and 4 genes, then 4 biases."""
    return np.concatenate([np.outer(genome[:9], genome[9:13]).ravel(), genome[13:]])


def test_a_phenotype_of_fewer_genes_evolves():
    network = Network((Flatten(), Dense(4)), (1, 3, 3))
    layout = GenomeLayout((DenseGenes(16, 1),))
    task = Classification(
        dataset(4), network, ClassificationConfig(BATCH), seed=3, phenotype=low_rank, layout=layout
    )
    assert task.layout.size == 17 < network.layout.size == 40
    config = EAConfig(population=30, sigma=0.1, seed=1)
    population = first_generation(task, config)
    first = population.fitness.max()
    for generation in range(1, 40):
        population = next_generation(population, task, config, generation)
    assert population.genomes.shape[1] == 17
    assert population.fitness.max() > first + 0.1


@pytest.mark.parametrize("individual", [0, 2, 6])
@pytest.mark.parametrize("rows_at_once", [1, 100])
def test_a_phenotype_that_fails_names_the_individual(individual, rows_at_once, monkeypatch):
    genomes, rows = bank_of(problem())
    guilty = genomes[rows[individual]]

    def raising(genome):
        if (genome == guilty).all():
            raise KeyError("no such gene")
        return genome

    def short(genome):
        return genome[:-1] if (genome == guilty).all() else genome

    def wide(genome):
        return genome.astype(float) if (genome == guilty).all() else genome

    monkeypatch.setattr(classification, "_SCRATCH_BYTES", rows_at_once * 4 * BATCH * 4)
    words = f"^phenotype: failed on individual {individual}: KeyError: 'no such gene'"
    with pytest.raises(ObjectiveError, match=words):
        evaluated(problem(phenotype=raising))
    words = rf"^phenotype: expected float32 \[G=74\] of individual {individual}, got "
    with pytest.raises(ObjectiveError, match=words + r"float32 \[73\]"):
        evaluated(problem(phenotype=short))
    with pytest.raises(ObjectiveError, match=words + r"float64 \[74\]"):
        evaluated(problem(phenotype=wide))


def test_a_layout_that_the_weights_do_not_have_needs_a_phenotype():
    other = GenomeLayout((DenseGenes(16, 1),))
    for options in ({}, {"phenotype": "sign"}):
        with pytest.raises(
            ArgumentError, match=r"^layout: expected None or the network's 74 genes"
        ):
            problem(layout=other, **options)
    assert problem(layout=other, phenotype=low_rank).layout is other


def test_names_that_nothing_has_are_refused():
    with pytest.raises(ArgumentError, match=r"^objective: expected one of .*macro_f1.* got 'f1'"):
        problem(objective="f1")
    with pytest.raises(ArgumentError, match=r"^phenotype: expected one of .*sign.* got 'binary'"):
        problem(phenotype="binary")
    with pytest.raises(ArgumentError, match=r"^batch: expected"):
        ClassificationConfig(batch=0)
    with pytest.raises(DtypeError, match=r"^batch: expected an int, got float 5.5"):
        ClassificationConfig(batch=5.5)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"objective": "f1"}, ArgumentError, "objective: expected one of"),
        ({"phenotype": "binary"}, ArgumentError, "phenotype: expected one of"),
        ({"positive_weight": 0.0}, ArgumentError, "positive_weight: expected a finite float32 > 0"),
        ({"positive_weight": "2"}, DtypeError, "positive_weight: expected a number, got str '2'"),
        ({"gce_q": "1"}, DtypeError, "gce_q: expected a number, got str '1'"),
        ({"sign_scale": 1e39}, ArgumentError, "sign_scale: expected a number in"),
        ({"sign_scale": "1"}, DtypeError, "sign_scale: expected a number, got str '1'"),
        ({"precision": "tf32"}, ArgumentError, r"precision: expected one of \['fp32', 'bf16'\], "),
    ],
)
def test_a_config_is_checked_before_there_is_a_problem(options, error, words):
    with pytest.raises(error, match=f"^{words}"):
        ClassificationConfig(**options)


@pytest.mark.parametrize("input_shape", [(9,), (3, 3, 1), (1, 4, 4)])
def test_a_network_for_other_images_is_refused(input_shape):
    layers = (Dense(4),) if input_shape == (9,) else (Flatten(), Dense(4))
    words = r"^network: expected the images \[1, 3, 3\] of pixels as its input, got \["
    with pytest.raises(ShapeError, match=words):
        Classification(
            dataset(4), Network(layers, input_shape), ClassificationConfig(batch=4), seed=0
        )


@pytest.mark.parametrize(
    ("seed", "error"), [(-1, ArgumentError), (2**64, ArgumentError), (1.0, DtypeError)]
)
def test_a_seed_that_is_none_is_refused(seed, error):
    network = Network((Flatten(), Dense(4)), (1, 3, 3))
    with pytest.raises(error, match=r"^seed: expected an int"):
        Classification(dataset(4), network, ClassificationConfig(batch=4), seed=seed)
    largest = Classification(dataset(4), network, ClassificationConfig(batch=4), seed=2**64 - 1)
    assert largest.settings()["batch_seed"] == 2**64 - 1
    assert len(largest.batch_of(0)) == 4


def test_settings_are_json_and_name_own_functions():
    settings = json.loads(json.dumps(problem(objective="macro_f1").settings()))
    assert len(settings.pop("dataset_sha256")) == 64
    assert settings == {
        "batch": BATCH,
        "objective": "macro_f1",
        "gce_q": 0.7,
        "positive_weight": 1.0,
        "phenotype": "direct",
        "sign_scale": None,
        "precision": "fp32",
        "sampling": "epochs",
        "uniform_share": 0.2,
        "importance_every": 50,
        "shift_share": 0.0,
        "batch_seed": 3,
    }
    own = problem(objective=partial(max, key=len), phenotype=low_rank, layout=SIGNS).settings()
    assert own["objective"] == "functools.partial"
    assert own["phenotype"] == "test_objectives.low_rank"
    json.dumps(own)
