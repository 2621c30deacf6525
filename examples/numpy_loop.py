"""The ops in a plain NumPy loop, without any driver: 256 networks learn two spirals.

Run it with ``python examples/numpy_loop.py``.
"""

import numpy as np

import evokern
from evokern import ops

POPULATION, ELITES, BEST, GENERATIONS = 256, 8, 64, 300


def spirals(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Points float32 [n, 2] on two interleaved spirals, labels int64 [n]."""
    labels = np.arange(n) % 2
    turn = np.sqrt(np.linspace(0.02, 1, n)) * 3 * np.pi
    angle = turn + labels * np.pi
    points = np.stack([turn * np.cos(angle), turn * np.sin(angle)], axis=1) / (3 * np.pi)
    return points.astype(np.float32), labels


def main(generations: int = GENERATIONS) -> float:
    """Evolves the networks and returns the best one's accuracy."""
    x, y = spirals(400)
    network = evokern.Network.mlp(2, [32, 32], 2, activation="tanh")
    genomes = ops.init_genomes(network.layout, POPULATION, seed=1, scheme="lecun_normal")
    rng = np.random.default_rng(1)
    for generation in range(1, generations + 1):
        loss, correct = ops.network_loss(genomes, network, x, y)
        order = np.argsort(loss, kind="stable").astype(np.int32)
        if generation % 50 == 0:
            print(f"generation {generation}: loss {loss.min():.4f}, {correct.max() / len(y):.1%}")
        parents = order[rng.integers(0, BEST, (2, POPULATION))]  # [R, S]
        parents[:, :ELITES] = order[:ELITES]
        sigma = np.full(POPULATION, 0.1 * 0.99**generation, np.float32)
        sigma[:ELITES] = 0
        genomes = ops.crossover_mutate(genomes, parents, sigma, seed=1, generation=generation)
    _, correct = ops.network_loss(genomes, network, x, y)
    return float(correct.max() / len(y))


if __name__ == "__main__":
    print(f"best network: {main():.1%} of the points")
