"""The gradient baseline: it learns, resumes with the same bits, and says what it lacks."""

import signal
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from evokern import Dense, Flatten, Network, ops
from evokern.__main__ import main
from evokern.checkpoint import load_network
from evokern.commands import adam as command
from evokern.drivers.adam import AdamConfig, train_adam
from evokern.errors import ArgumentError, DtypeError, RunStopped
from evokern.metrics import read_json, read_metrics
from evokern.problems.classification import Classification, ClassificationConfig
from evokern.problems.datasets import Dataset

NETWORK = Network((Flatten(), Dense(12, "tanh"), Dense(4)), (1, 6, 6))


def problem_of(batch: int = 16, **settings: Any) -> Classification:
    """Four classes: which row of an image is bright."""
    rng = np.random.default_rng(5)
    labels = np.arange(240, dtype=np.uint8) % 4
    images = rng.integers(0, 80, (240, 6, 6), dtype=np.uint8)
    images[np.arange(240), labels + 1] = 255
    dataset = Dataset("rows", images[:200], labels[:200], images[200:], labels[200:], classes=4)
    config = ClassificationConfig(batch=batch, **settings)
    return Classification(dataset, NETWORK, config, seed=2)


@pytest.mark.torch
def test_it_learns_and_leaves_a_run_behind(tmp_path):
    pytest.importorskip("torch")
    config = AdamConfig(iterations=200, learning_rate=0.01, log_every=50, checkpoint_every=100)
    result = train_adam(problem_of(), config, tmp_path)
    assert result.test_accuracy > 0.9  # chance is 0.25
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [record["iteration"] for record in records] == [50, 100, 150, 200]
    assert records[-1]["loss"] < records[0]["loss"]
    assert read_json(tmp_path / "result.json")["iterations"] == 200
    network, tensors, _ = load_network(tmp_path / "best.safetensors")
    assert network == NETWORK
    problem = problem_of()
    genome = tensors["genomes"][None]
    assert problem.accuracy(genome, problem.test)[0] == result.test_accuracy


@pytest.mark.torch
@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"sampling": "importance"}, "sampling: expected epochs for Adam, got importance"),
        ({"shift_share": 0.5}, r"shift_share: expected 0 for Adam, got 0\.5"),
        ({"objective": "mse"}, "objective: expected cross_entropy for Adam, got mse"),
        ({"phenotype": "sign"}, "phenotype: expected direct for Adam, got sign"),
        ({"precision": "bf16"}, "precision: expected fp32 for Adam, got bf16"),
    ],
)
def test_it_refuses_what_is_of_evolution(settings, text, tmp_path):
    pytest.importorskip("torch")
    with pytest.raises(ArgumentError, match=text):
        train_adam(problem_of(**settings), AdamConfig(iterations=1), tmp_path)


@pytest.mark.torch
def test_it_starts_from_the_genome_of_individual_0(tmp_path):
    torch = pytest.importorskip("torch")
    problem = problem_of()
    module = NETWORK.to_module(ops.init_genomes(NETWORK.layout, 1, seed=7)[0])
    optimizer = torch.optim.Adam(module.parameters(), lr=0.003)
    samples = problem.batch_of(0)
    outputs = module(torch.from_numpy(problem.train.x[samples]))
    torch.nn.functional.cross_entropy(
        outputs, torch.from_numpy(problem.train.y[samples])
    ).backward()
    optimizer.step()
    train_adam(problem, AdamConfig(iterations=1, learning_rate=0.003, seed=7), tmp_path)
    genome = load_network(tmp_path / "best.safetensors")[1]["genomes"]
    assert_array_equal(genome, NETWORK.genome_of(module))


@pytest.mark.torch
def test_a_stopped_run_goes_on_with_the_same_bits(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    config = AdamConfig(iterations=40, log_every=10, checkpoint_every=7)
    train_adam(problem_of(), config, tmp_path / "unbroken")

    problem = problem_of()
    batch_of = problem.batch_of

    def interrupt(step: int) -> np.ndarray:
        if step == 17:
            signal.raise_signal(signal.SIGTERM)
        return batch_of(step)

    monkeypatch.setattr(problem, "batch_of", interrupt)
    with pytest.raises(RunStopped, match="iteration 18") as stop:
        train_adam(problem, config, tmp_path / "broken")
    assert stop.value.signal == signal.SIGTERM
    train_adam(problem_of(), config, tmp_path / "broken")
    files = [tmp_path / name / "best.safetensors" for name in ("unbroken", "broken")]
    assert files[0].read_bytes() == files[1].read_bytes()
    steps = [r["iteration"] for r in read_metrics(tmp_path / "broken" / "metrics.jsonl")]
    assert steps == [10, 20, 30, 40]


@pytest.mark.torch
def test_another_configuration_in_its_folder_is_refused(tmp_path):
    pytest.importorskip("torch")
    train_adam(problem_of(), AdamConfig(iterations=2), tmp_path)
    with pytest.raises(ArgumentError, match=r"learning_rate: 0\.001 there, 0\.1 now"):
        train_adam(problem_of(), AdamConfig(iterations=2, learning_rate=0.1), tmp_path)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"iterations": 0}, "iterations"),
        ({"log_every": 0}, "log_every"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"learning_rate": "a"}, "learning_rate"),
        ({"learning_rate": True}, "learning_rate"),
        ({"seed": -1}, "seed"),
        ({"tensorboard": 1}, "tensorboard"),
    ],
)
def test_settings_out_of_range_are_refused(settings, name):
    with pytest.raises((ArgumentError, DtypeError), match=f"^{name}: expected"):
        AdamConfig(**settings)


def test_without_torch_the_command_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert main(["adam", "mnist"]) == 1
    assert "pip install 'evokern[torch]'" in capsys.readouterr().err
