"""Networks in files: round trips, the same bytes, and files of other origin."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import tiny
from networks import LAYERED
from numpy.testing import assert_array_equal

from evokern import files, ops
from evokern.checkpoint import describe, load_network, rebuild, save_network
from evokern.errors import CheckpointError, StorageError
from evokern.network import (
    Affine,
    AvgPool2d,
    Conv2d,
    Dense,
    Flatten,
    MaxPool2d,
    Network,
    Residual,
)


@pytest.mark.parametrize(
    "network",
    [
        tiny.NETWORK,
        Network.mlp(3, [4], 2),
        Network((AvgPool2d(2), Flatten(), Dense(5, "tanh"), Dense(1)), (2, 4, 6)),
        Network((MaxPool2d((3, 1), stride=(2, 1)), Flatten(), Dense(2)), (1, 5, 2)),
        *LAYERED.values(),
    ],
)
@pytest.mark.parametrize("n", [0, 1, 2])
def test_a_network_gives_back_what_it_got(tmp_path, network, n):
    path = tmp_path / "best.safetensors"
    genomes = ops.init_genomes(network.layout, 2, seed=5)[:n]
    save_network(path, network, genomes, tensors={"mean": np.eye(3)}, facts={"a": [1, None, "ü"]})
    loaded, tensors, facts = load_network(path)
    assert loaded == network
    assert_array_equal(tensors["genomes"].view(np.uint32), genomes.view(np.uint32))
    assert_array_equal(tensors["mean"], np.eye(3))
    assert facts == {"a": [1, None, "ü"]}
    first = path.read_bytes()
    save_network(path, network, genomes, tensors={"mean": np.eye(3)}, facts={"a": [1, None, "ü"]})
    assert path.read_bytes() == first
    assert tiny.names(tmp_path) == ["best.safetensors"]


def test_one_genome_stays_one_genome(tmp_path):
    genome = ops.init_genomes(tiny.NETWORK.layout, 1, seed=5)[0]
    save_network(tmp_path / "x", tiny.NETWORK, genome)
    assert load_network(tmp_path / "x")[1]["genomes"].shape == (51,)


def test_the_description_of_a_network():
    """What is in files: a new field needs a default, a changed one a new format."""
    network = Network(
        (Residual((Conv2d(2, (3, 1), padding=(1, 0)), Residual(())), (Affine("tanh"),)),), (2, 3, 3)
    )
    slope = {"negative_slope": 0.01}
    conv = {
        "kind": "Conv2d",
        "outputs": 2,
        "kernel": [3, 1],
        "stride": 1,
        "padding": [1, 0],
        "activation": "identity",
        **slope,
        "bias": True,
    }
    inner = {"kind": "Residual", "body": [], "shortcut": None, "activation": "relu", **slope}
    affine = {"kind": "Affine", "activation": "tanh", **slope}
    outer = {"body": [conv, inner], "shortcut": [affine], "activation": "relu", **slope}
    described = {"input_shape": [2, 3, 3], "layers": [{"kind": "Residual", **outer}]}
    assert describe(network) == described
    assert rebuild(json.loads(json.dumps(described))) == network


def test_a_dense_layer_saved_before_there_were_layers_without_bias():
    layer = {"kind": "Dense", "outputs": 3, "activation": "tanh", "negative_slope": 0.5}
    network = rebuild({"input_shape": [2], "layers": [layer]})
    assert network == Network((Dense(3, "tanh", 0.5, bias=True),), (2,))


def network_file(path: Path, header: dict[str, str], **tensors: np.ndarray) -> Path:
    safetensors.numpy.save_file(tensors, path, metadata=header)
    return path


DENSE = '{"input_shape": [2], "layers": [{"kind": "Dense", "outputs": 3}]}'
GENOMES = np.zeros((2, 9), np.float32)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({}, "expected format 1, found none"),
        ({"format": "pt"}, "expected format 1, found pt"),
        ({"format": "2"}, "expected format 1, found 2"),
        ({"format": "1"}, "not a network saved by evokern: 'network'"),
        ({"format": "1", "network": DENSE}, "not a network saved by evokern: 'facts'"),
        *[
            ({"format": "1", "facts": "{}", "network": network}, "not a network saved by evokern")
            for network in (
                "",
                "[]",
                "5",
                '{"layers": 5, "input_shape": [2]}',
                '{"layers": ["Dense"], "input_shape": [2]}',
                '{"layers": [{"kind": "Conv9d"}], "input_shape": [2]}',
                '{"layers": [{"kind": "Dense", "outputs": 3, "colour": 1}], "input_shape": [2]}',
                '{"layers": [{"kind": "Dense", "outputs": -3}], "input_shape": [2]}',
                '{"layers": [{"kind": "Dense", "outputs": 3}], "input_shape": [2, 2]}',
                '{"layers": [{"kind": "Dense", "outputs": 3}], "input_shape": null}',
                "[" * 100_000,
                '{"layers": [{"kind": "Residual"}], "input_shape": [2]}',
                *(
                    f'{{"layers": [{{"kind": "Residual", {body}}}], "input_shape": [2]}}'
                    for body in (
                        '"body": null',
                        '"body": 5',
                        '"body": ["Dense"]',
                        '"body": [{"kind": "Conv9d"}]',
                        '"body": [{"outputs": 2}]',
                        '"body": {"kind": "Flatten"}',
                        '"body": [], "shortcut": 5',
                        '"body": [{"kind": "Dense", "outputs": 3}]',
                    )
                ),
            )
        ],
    ],
)
def test_a_header_of_other_origin_is_refused(tmp_path, header, words):
    path = network_file(tmp_path / "best.safetensors", header, genomes=GENOMES)
    with pytest.raises(CheckpointError, match=rf"best\.safetensors: {words}"):
        load_network(path)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"genes": GENOMES}, "not a network saved by evokern: 'genomes'"),
        (
            {"genomes": GENOMES[:, :8]},
            r"expected genomes float32 \[..., 9\] .*, got float32 \[2, 8\]",
        ),
        ({"genomes": GENOMES.astype(np.float64)}, r"got float64 \[2, 9\]"),
        ({"genomes": GENOMES[None]}, r"got float32 \[1, 2, 9\]"),
        ({"genomes": np.array(0, np.float32)}, r"got float32 \[\]"),
    ],
)
def test_genomes_that_do_not_fit_the_network_are_refused(tmp_path, tensors, words):
    header = {"format": "1", "facts": "{}", "network": DENSE}
    path = network_file(tmp_path / "x", header, **tensors)
    with pytest.raises(CheckpointError, match=words):
        load_network(path)
    assert load_network(network_file(path, header, genomes=GENOMES))[0].layout.size == 9


def test_a_network_cut_off_anywhere_is_refused(tmp_path):
    path = tmp_path / "x"
    save_network(path, tiny.NETWORK, ops.init_genomes(tiny.NETWORK.layout, 1, seed=5))
    content = path.read_bytes()
    for size in range(0, len(content), 7):
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match="not a network saved by evokern"):
            load_network(path)


@pytest.mark.parametrize("name", ["none", "."])
def test_no_file_is_no_network(tmp_path, name):
    with pytest.raises(CheckpointError, match="not a network saved by evokern"):
        load_network(tmp_path / name)


def test_a_network_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "best.safetensors"
    genomes = ops.init_genomes(tiny.NETWORK.layout, 2, seed=5)
    save_network(path, tiny.NETWORK, genomes[0])

    def fail(file: object, content: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write", fail)
    with pytest.raises(StorageError, match=r"best\.safetensors: cannot be written: No space left"):
        save_network(path, tiny.NETWORK, genomes[1])
    assert_array_equal(load_network(path)[1]["genomes"], genomes[0])
    assert tiny.names(tmp_path) == ["best.safetensors"]
