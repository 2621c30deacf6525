"""F1 evolved directly, where one class is rare: is a digit an 8, when only 2 % are?

A linear classifier evolves minus the cross-entropy, or F1 itself (mean over both classes), which
has no gradient, or first the one and then the other. F1 counts a missed 8 as much as a false one
in proportion to how few there are; the cross-entropy does not, and misses more of them. Run it
with ``python examples/imbalanced_f1.py``; MNIST must be in the data cache (``make data``).
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np

from evokern import Dense, Flatten, MaxPool2d, Network
from evokern.drivers.ea import EAConfig, first_generation, next_generation
from evokern.drivers.train import best_by
from evokern.problems.classification import Classification, ClassificationConfig, Part
from evokern.problems.datasets import Dataset, load
from evokern.problems.objectives import macro_f1, predictions

DIGIT, KEPT = 8, 0.2
NETWORK = Network((MaxPool2d(2), Flatten(), Dense(2)), (1, 28, 28))
PLANS = {
    "cross-entropy": ("cross_entropy", "cross_entropy"),
    "F1": ("macro_f1", "macro_f1"),
    "cross-entropy, then F1": ("cross_entropy", "macro_f1"),
}


def rare_digit(dataset: Dataset) -> Dataset:
    """Labels 1 for DIGIT, of which a share KEPT stays, and 0 for the others."""

    def part(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        members = np.flatnonzero(labels == DIGIT)
        dropped = members[int(KEPT * len(members)) :]
        kept = np.delete(np.arange(len(labels)), dropped)
        return images[kept], (labels[kept] == DIGIT).astype(np.uint8)

    train = part(dataset.train_images, dataset.train_labels)
    test = part(dataset.test_images, dataset.test_labels)
    return Dataset(f"{dataset.name}, {DIGIT} or not", *train, *test, classes=2)


def evolve(dataset: Dataset, plan: tuple[str, str], seed: int, generations: int) -> np.ndarray:
    """(F1, recall, precision of the rare class; accuracy) on the test part."""
    problems = [
        Classification(
            dataset, NETWORK, ClassificationConfig(batch=8192, objective=objective), seed=seed
        )
        for objective in plan
    ]
    config = EAConfig(
        population=200,
        truncation=0.3,
        sigma=0.1,
        sigma_schedule="exponential",
        sigma_decay=0.99,
        sigma_period=1,
        seed=seed,
    )
    population = first_generation(problems[0], config)
    for generation in range(1, generations // 2 + 1):
        population = next_generation(population, problems[0], config, generation)
    fitness = problems[1].evaluate(population.genomes, population.rows, generations // 2)
    population = replace(population, fitness=fitness)
    config = replace(config, sigma=0.05, sigma_schedule="constant")
    for generation in range(generations // 2 + 1, generations + 1):
        population = next_generation(population, problems[1], config, generation)

    def f1(genomes: np.ndarray, part: Part) -> np.ndarray:
        return macro_f1(problems[1].logits(genomes, part), part.y)

    best = best_by(f1, problems[1].holdout, population, 1)[0]
    return scores(problems[1], best, problems[1].test)


def scores(problem: Classification, genomes: np.ndarray, part: Part) -> np.ndarray:
    """(F1, recall, precision of the rare class; accuracy) of the first genome."""
    predicted = predictions(problem.logits(genomes[:1], part))[0]
    hits = np.count_nonzero(predicted & part.y)
    recall, precision = hits / part.y.sum(), hits / max(1, predicted.sum())
    f1 = 2 * hits / (part.y.sum() + predicted.sum())
    return np.array([f1, recall, precision, (predicted == part.y).mean()])


def main() -> None:
    """Prints what every plan reaches: medians over seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generations", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    dataset = rare_digit(load("mnist"))
    share = np.bincount(dataset.train_labels)[1] / len(dataset.train_labels)
    print(f"{share:.1%} of {len(dataset.train_labels):,} digits are an {DIGIT}")
    for name, plan in PLANS.items():
        reached = [evolve(dataset, plan, s, options.generations) for s in range(options.seeds)]
        f1, recall, precision, accuracy = np.median(reached, axis=0)
        print(
            f"{name:23} test F1 {f1:.3f} (recall {recall:.3f}, precision {precision:.3f}), "
            f"accuracy {accuracy:.2%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
