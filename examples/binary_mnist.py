"""A network whose weights are only signs, evolved on MNIST: no gradient could train it directly.

Weights are the genes' signs times 1 / sqrt(fan_in), biases stay real numbers. Offspring mix two
parents and then get new values in a few genes. Run it with ``python examples/binary_mnist.py``;
MNIST must be in the data cache (``make data``).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from evokern.checkpoint import load_network
from evokern.drivers.ea import EAConfig
from evokern.drivers.train import train
from evokern.problems.classification import (
    Classification,
    ClassificationConfig,
    thesis_network,
)
from evokern.problems.datasets import load


def main() -> None:
    """Evolves the network and says how large it is without the floats."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generations", type=int, default=2000)
    parser.add_argument("--folder", type=Path, default=Path("runs/binary-mnist"))
    options = parser.parse_args()
    config = EAConfig(
        population=300,
        generations=options.generations,
        truncation=0.3,
        crossover_share=0.95,
        crossover_then_mutation=True,
        mutation_rate=0.0005,
        sigma=0.3,
    )
    network = thesis_network()
    settings = ClassificationConfig(batch=256, phenotype="sign")
    problem = Classification(load("mnist"), network, settings, seed=config.seed)
    result = train(problem, config, options.folder)

    _, tensors, _ = load_network(options.folder / "best.safetensors")
    blocks = network.layout.split(tensors["genomes"])
    for weights, _ in blocks:
        assert len(np.unique(np.abs(weights))) == 1
    bits = sum(weights.size for weights, _ in blocks)
    biases = sum(bias.size for _, bias in blocks)
    print(
        f"test accuracy {result.test_accuracy:.2%} with {bits:,} weights of one bit and {biases} "
        f"biases: {bits / 8 / 1024 + biases * 4 / 1024:.1f} KiB instead of "
        f"{network.layout.size * 4 / 1024:.0f} KiB\n"
        f"ensemble of the best {result.ensemble_size}: {result.ensemble_test_accuracy:.2%}"
    )


if __name__ == "__main__":
    main()
