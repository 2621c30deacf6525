"""Evolves small convolutional networks on Fashion-MNIST, without a gradient.

Two strided convolutions and a dense layer, 9,226 genes; the whole population runs in one call per
generation. Run it with ``python examples/fashion_convnet.py``: about ten minutes on two cores.
Fashion-MNIST must be in the data cache (``make data``).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from evokern import Conv2d, Dense, Flatten, Network
from evokern.drivers.ea import EAConfig
from evokern.drivers.train import train
from evokern.problems.classification import Classification, ClassificationConfig
from evokern.problems.datasets import load


def convnet() -> Network:
    """Images [1, 28, 28] to 10 classes: 8 channels of 14x14, then 16 of 7x7."""
    layers = (
        Conv2d(8, kernel=5, stride=2, padding=2, activation="relu"),
        Conv2d(16, kernel=3, stride=2, padding=1, activation="relu"),
        Flatten(),
        Dense(10),
    )
    return Network(layers, (1, 28, 28))


def main() -> None:
    """Evolves the networks and says what the best one knows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generations", type=int, default=3000)
    parser.add_argument("--folder", type=Path, default=Path("runs/fashion-convnet"))
    options = parser.parse_args()
    config = EAConfig(
        population=300,
        generations=options.generations,
        truncation=0.3,
        crossover_share=0.8,
        sigma=0.03,
        sigma_schedule="exponential",
        sigma_decay=0.999,
        sigma_period=1,
    )
    settings = ClassificationConfig(batch=256)
    problem = Classification(load("fashion-mnist"), convnet(), settings, seed=config.seed)
    result = train(problem, config, options.folder)
    print(
        f"test accuracy {result.test_accuracy:.2%}, hold-out {result.holdout_accuracy:.2%}, "
        f"{result.seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
