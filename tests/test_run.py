"""A run in its folder: it goes on to the same bits, and shares its folder with no other."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tiny
from numpy.testing import assert_array_equal
from tiny import at, hooked, run

from evokern import ops
from evokern.checkpoint import load_network
from evokern.drivers.ea import next_generation
from evokern.drivers.run import claim, plain, run_folder
from evokern.drivers.train import RunConfig, last_population
from evokern.errors import (
    ArgumentError,
    CheckpointError,
    DtypeError,
    RunStopped,
    StorageError,
)
from evokern.files import locked
from evokern.metrics import read_json, read_metrics
from evokern.problems.classification import Classification, ClassificationConfig
from evokern.testing import assert_same_bits

# Every kind of state that a generation hands to the next one.
VARIANTS = [
    {},
    {"lineages": True},
    {"lineages": True, "survival": "plus", "offspring": 3, "elites": 1},
    {"alpha": 0.3, "sigma_schedule": "self_adaptive", "sigma_rule": "program"},
    {"sigma_schedule": "cosine", "sigma_period": 4, "selection": "tournament"},
    {
        "evaluate_first": False,
        "crossover": "arithmetic",
        "parent_weights": "rank",
        "lineages": True,
    },
]


@pytest.fixture(autouse=True)
def _quickly() -> Iterator[None]:
    with tiny.quickly():
        yield


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    with tiny.quickly():
        run(folder)
    return folder


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_run_that_was_stopped_ends_like_one_that_was_not(tmp_path, variant, stop):
    run(tmp_path / "unbroken", settings=variant)
    problem = at(stop, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(RunStopped):
        run(tmp_path / "stopped", problem, variant)
    run(tmp_path / "stopped", settings=variant)
    assert tiny.outcome(tmp_path / "stopped") == tiny.outcome(tmp_path / "unbroken")


def test_a_run_stopped_in_every_generation_ends_like_one_that_was_not(tmp_path, unbroken):
    for generation in (1, 2, 3, 4, 5):
        with pytest.raises(RunStopped, match=f"after generation {generation} "):
            run(tmp_path, at(generation, lambda: signal.raise_signal(signal.SIGINT)))
    run(tmp_path)
    assert tiny.outcome(tmp_path) == tiny.outcome(unbroken)


def test_a_finished_run_is_not_run_again(tmp_path):
    result = run(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in tiny.names(tmp_path)}

    def fail(generation: int) -> None:
        raise AssertionError

    assert run(tmp_path, hooked(fail)) == result
    assert {name: (tmp_path / name).read_bytes() for name in tiny.names(tmp_path)} == before


def test_a_finished_run_is_only_read(tmp_path):
    result = run(tmp_path)
    (tmp_path / ".lock").unlink()  # as where nothing may be written
    assert run(tmp_path) == result
    assert not (tmp_path / ".lock").exists()
    with pytest.raises(ArgumentError, match="holds a run with other settings"):
        run(tmp_path, log_every=3)


def test_other_settings_are_refused_with_the_difference(tmp_path):
    run(tmp_path)
    with pytest.raises(ArgumentError) as error:
        run(tmp_path, settings={"population": 9, "sigma": 0.2}, log_every=3)
    assert str(error.value) == (
        f"{tmp_path}: holds a run with other settings: log_every: 2 there, 3 now; "
        "population: 8 there, 9 now; sigma: 0.1 there, 0.2 now; choose another folder, or give "
        "the settings there to go on with that run"
    )


def begin(folder: Path, settings: dict[str, object]) -> None:
    claim(folder, plain(settings))
    (folder / "metrics.jsonl").write_text('{"generation": 1}')


def test_settings_that_one_of_the_two_lacks_are_a_difference(tmp_path):
    begin(tmp_path, {"a": 1, "b": (2, 3)})
    claim(tmp_path, plain({"b": [2, 3], "a": 1}))
    with pytest.raises(ArgumentError, match="a: 1 there, absent now; c: absent there, 4 now"):
        claim(tmp_path, {"b": [2, 3], "c": 4})


def test_another_algorithm_is_the_only_difference_that_is_told(tmp_path):
    begin(tmp_path, {"algorithm": "ea", "sigma": 1})
    with pytest.raises(ArgumentError, match="settings: algorithm: 'ea' there, 'adam' now; choose"):
        claim(tmp_path, {"algorithm": "adam", "rate": 1})


def test_a_run_that_failed_at_its_start_does_not_keep_the_corrected_one_out(tmp_path):
    def fail() -> None:
        raise MemoryError("too large")

    with pytest.raises(MemoryError):
        run(tmp_path, at(0, fail), settings={"population": 9})
    assert run_folder(tmp_path, {"any": "settings"}) == tmp_path
    run(tmp_path)
    assert read_json(tmp_path / "config.json")["population"] == 8


def test_how_a_run_is_watched_may_change(tmp_path):
    problem = at(3, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(RunStopped):
        run(tmp_path, problem)
    run(tmp_path, checkpoint_every=1, keep=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()].count("000000006.json") == 1
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


@pytest.mark.parametrize("name", ["log_every", "checkpoint_every", "keep", "finalists", "ensemble"])
def test_options_below_one_are_refused(name):
    with pytest.raises(ArgumentError, match=rf"^{name}: expected an int in \[1, .*\], got 0"):
        RunConfig(**{name: 0})


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", "\0" * 50])
@pytest.mark.parametrize("name", ["config.json", "result.json"])
def test_a_garbled_file_is_an_error_that_names_it(tmp_path, name, content):
    run(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match=rf"{name}: expected a JSON object, got"):
        run(tmp_path)


def test_a_result_of_another_kind_is_an_error(tmp_path):
    run(tmp_path)
    (tmp_path / "result.json").write_text('{"iterations": 3}')
    with pytest.raises(CheckpointError, match=r"result\.json: not the result of such a run"):
        run(tmp_path)


def test_a_folder_in_use_is_refused(tmp_path, unbroken):
    def second() -> None:
        with pytest.raises(StorageError, match="another process is running here; wait for it"):
            run(tmp_path)

    run(tmp_path, at(3, second))
    assert tiny.outcome(tmp_path) == tiny.outcome(unbroken)
    run(tmp_path)  # and is free afterwards


def test_a_lock_is_given_back_after_an_error(tmp_path):
    with pytest.raises(OSError, match="inside"), locked(tmp_path):
        raise OSError("inside")
    with locked(tmp_path), pytest.raises(StorageError), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    def fail(file: object, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(StorageError, match=r"\.lock: cannot be written: No locks available"):
        run(tmp_path)


@pytest.mark.parametrize("name", ["", "below"])
def test_a_run_folder_that_is_a_file_is_refused(tmp_path, name):
    path = tmp_path / "run"
    path.write_text("mine")
    with pytest.raises(StorageError, match=r"run.*: cannot be written: (File exists|Not a dir)"):
        run(path / name)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("name", [".lock", "config.json", "metrics.jsonl", "checkpoints"])
def test_what_is_in_the_way_is_named(tmp_path, name):
    path = tmp_path / name
    if name == "checkpoints":
        path.write_text("mine")
    else:
        path.mkdir()
    with pytest.raises((StorageError, CheckpointError), match=f"{name}: cannot be (written|read)"):
        run(tmp_path)


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A user who may read here and not write, also where the tests run as root."""
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)  # the folders above are nobody's to look into
    if os.geteuid() == 0:
        os.seteuid(65534)
        yield
        os.seteuid(0)
    else:
        tmp_path.chmod(0o555)
        yield
        tmp_path.chmod(0o755)


def test_a_folder_that_one_may_not_write_to_is_refused(nobody):
    with pytest.raises(StorageError, match=r"^run: cannot be written: Permission denied"):
        run(Path("run"))
    with pytest.raises(StorageError, match=r"^\.lock: cannot be written: Permission denied"):
        run(Path())


@pytest.mark.torch
def test_adam_goes_on_with_the_same_bits(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    from evokern.drivers.adam import AdamConfig, train_adam

    config = AdamConfig(iterations=6, log_every=2, checkpoint_every=2, seed=1)
    results = [train_adam(tiny.problem(), config, tmp_path / "unbroken")]
    batch_of = Classification.batch_of

    def stop(self: Classification, step: int) -> np.ndarray:
        if step == 2:
            signal.raise_signal(signal.SIGTERM)
        return batch_of(self, step)

    with monkeypatch.context() as patched:
        patched.setattr(Classification, "batch_of", stop)
        with pytest.raises(RunStopped, match="stopped after iteration 3"):
            train_adam(tiny.problem(), config, tmp_path / "stopped")
    damaged = tmp_path / "stopped" / "checkpoints" / "000000003.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])  # so it goes on from iteration 2
    results.append(train_adam(tiny.problem(), config, tmp_path / "stopped"))
    assert results[0].test_accuracy == results[1].test_accuracy
    genomes = [
        load_network(tmp_path / name / "best.safetensors")[1]["genomes"]
        for name in ("unbroken", "stopped")
    ]
    assert_array_equal(genomes[0].view(np.uint32), genomes[1].view(np.uint32))
    lines = [
        [tiny.without_time(record) for record in read_metrics(tmp_path / name / "metrics.jsonl")]
        for name in ("unbroken", "stopped")
    ]
    assert lines[0] == lines[1]
    assert train_adam(tiny.problem(), config, tmp_path / "stopped") == results[1]


@pytest.mark.torch
def test_adam_refuses_a_checkpoint_of_another_network(tmp_path):
    pytest.importorskip("torch")
    from evokern.checkpoint import Checkpoint, save_checkpoint
    from evokern.drivers.adam import _set_state

    module = tiny.NETWORK.to_module(np.zeros(51, np.float32))
    weights = np.zeros((4, 3), np.float32)
    path = save_checkpoint(tmp_path, 1, {"0.weights": weights}, {}, run="r")
    checkpoint = Checkpoint(path, path.with_suffix(".safetensors"), 1, {})
    with pytest.raises(CheckpointError, match=r"of parameter 0, got \{'weights': \(4, 3\)\}"):
        _set_state(module, None, checkpoint)


def test_the_last_population_can_be_read(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read"):
        last_population(tmp_path)
    run(tmp_path, settings={"lineages": True})
    population = last_population(tmp_path)
    assert len(population) == 8
    assert population.fitness.max() > population.fitness.min()
    replayed = ops.replay(population.lineages, tiny.NETWORK.layout)
    assert_same_bits(replayed, population.genomes[population.rows])


def test_the_last_population_goes_on(tmp_path):
    run(tmp_path)
    config = tiny.config()
    after = next_generation(
        last_population(tmp_path), tiny.problem(), config, config.generations + 1
    )
    assert np.isfinite(after.fitness).all()


def test_other_runs_have_no_population(tmp_path):
    (tmp_path / "config.json").write_text('{"algorithm": "es"}')
    with pytest.raises(CheckpointError, match=r"expected a run of the genetic algorithm, got .*es"):
        last_population(tmp_path)


def test_numbers_of_numpy_are_settings(tmp_path):
    config = ClassificationConfig(batch=np.int64(4), gce_q=np.float32(0.5), shift_share=0)
    assert config == ClassificationConfig(batch=4, gce_q=0.5, shift_share=0.0)
    watch = RunConfig(log_every=np.int64(2), ensemble=np.uint8(3))
    assert plain(asdict(watch)) == asdict(RunConfig(log_every=2, ensemble=3))
    assert plain(asdict(config)) == asdict(config)
    with pytest.raises(DtypeError, match="tensorboard: expected True or False, got str 'no'"):
        RunConfig(tensorboard="no")


def test_other_data_of_the_same_name_is_another_run(tmp_path):
    run(tmp_path)
    changed = tiny.dataset()
    changed.train_images[0, 0, 0] ^= 1
    problem = Classification(changed, tiny.NETWORK, ClassificationConfig(batch=4), seed=1)
    with pytest.raises(ArgumentError, match="dataset_sha256: "):
        run(tmp_path, problem)
