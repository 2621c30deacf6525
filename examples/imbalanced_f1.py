"""F1 evolved directly, on digits whose classes are of very different sizes.

Every digit k keeps 0.6^k of its images: there are a hundred times more zeros than nines. The same
algorithm evolves minus the cross-entropy and, as evolution needs no gradient, F1 itself (mean over
classes). Run it with ``python examples/imbalanced_f1.py``; MNIST must be in the data cache.
"""

from __future__ import annotations

import argparse

import numpy as np

from evokern import Dense, Flatten, MaxPool2d, Network
from evokern.drivers.ea import EAConfig, first_generation, next_generation
from evokern.problems.classification import Classification, ClassificationConfig, Part
from evokern.problems.datasets import Dataset, load
from evokern.problems.objectives import macro_f1
from evokern.selection import rank

NETWORK = Network((MaxPool2d(2), Flatten(), Dense(32, "relu"), Dense(10)), (1, 28, 28))
CONFIG = EAConfig(
    population=300,
    crossover_share=0.8,
    truncation=0.3,
    sigma=0.05,
    sigma_schedule="exponential",
    sigma_decay=0.9985,
    sigma_period=1,
)


def imbalanced(dataset: Dataset) -> Dataset:
    """Digit k keeps the first 0.6^k of its images, in both parts."""

    def keep(labels: np.ndarray) -> np.ndarray:
        members = [np.flatnonzero(labels == k) for k in range(dataset.classes)]
        kept = [m[: max(1, int(0.6**k * len(m)))] for k, m in enumerate(members)]
        return np.sort(np.concatenate(kept))

    train, test = keep(dataset.train_labels), keep(dataset.test_labels)
    return Dataset(
        f"imbalanced {dataset.name}",
        dataset.train_images[train],
        dataset.train_labels[train],
        dataset.test_images[test],
        dataset.test_labels[test],
    )


def evolve(dataset: Dataset, objective: str, seed: int, generations: int) -> tuple[float, float]:
    """(macro F1, accuracy) on the test part of the network that is best by hold-out F1."""
    settings = ClassificationConfig(batch=1024, objective=objective)
    problem = Classification(dataset, NETWORK, settings, seed=seed)
    config = EAConfig(**{**vars(CONFIG), "seed": seed})
    population = first_generation(problem, config)
    for generation in range(1, generations + 1):
        population = next_generation(population, problem, config, generation)
    finalists = population.genomes[population.rows[rank(population.fitness)[:50]]]

    def f1(genomes: np.ndarray, part: Part) -> np.ndarray:
        return macro_f1(problem.logits(genomes, part), part.y)

    best = finalists[f1(finalists, problem.holdout).argmax()][None]
    return float(f1(best, problem.test)[0]), float(problem.accuracy(best, problem.test)[0])


def main() -> None:
    """Prints both objectives' test results, seed by seed, and their medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generations", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    dataset = imbalanced(load("mnist"))
    sizes = np.bincount(dataset.train_labels)
    print(f"training and hold-out images per digit: {', '.join(map(str, sizes))}")
    for objective in ("cross_entropy", "macro_f1"):
        scores = []
        for seed in range(options.seeds):
            f1, accuracy = evolve(dataset, objective, seed, options.generations)
            reached = f"test F1 {f1:.3f}, accuracy {accuracy:.2%}"
            print(f"{objective}, seed {seed}: {reached}", flush=True)
            scores.append(f1)
        print(f"{objective}: median test F1 {np.median(scores):.3f}", flush=True)


if __name__ == "__main__":
    main()
