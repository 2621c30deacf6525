"""Supervised classification as a problem for evolution: batches to train on, parts to test on.

Preprocessing is that of the authors' program (thesis, chapter 5): the first 90 % of a fixed
permutation train, the rest is held out; the training part's mean image is subtracted, then pixels
are divided by 255. Unlike that program, the test accuracy is measured on the real test set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from evokern import _devices, ops
from evokern._values import assign, integer, number, one_of, probability
from evokern.errors import ArgumentError, ShapeError, message
from evokern.layers import Dense, Flatten, MaxPool2d
from evokern.layout import GenomeLayout
from evokern.network import Network
from evokern.population import allocate_genomes
from evokern.problems.datasets import Dataset, Labels, holdout_split, mean_image, normalise
from evokern.problems.epochs import EpochSampler
from evokern.problems.importance import ImportanceSampler, errors_of
from evokern.problems.mutants import Trace, check_slices
from evokern.problems.objectives import (
    OBJECTIVES,
    OF_CLASSES,
    WEIGHTED,
    LogitsObjective,
    ObjectiveName,
    check_gce_q,
    check_positive_weight,
    objective_named,
    predictions,
)
from evokern.problems.own_functions import fitness_by, name_of, write_weights
from evokern.problems.phenotypes import (
    Phenotype,
    PhenotypeName,
    check_sign_scale,
    phenotype_named,
)
from evokern.problems.shifts import shifted
from evokern.rules import LossName
from evokern.slices import Mutants, Slices

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

HostPrecision = Literal["fp32", "bf16"]
Sampling = Literal["epochs", "importance"]

_SCRATCH_BYTES = 8 << 20  # logits or phenotypes at one time: what the caches hold


def thesis_network(image_shape: tuple[int, int, int] = (1, 28, 28), classes: int = 10) -> Network:
    """2x2 max-pool, dense 256-128-64-classes with relu: 92,234 genes on 28x28 images (5.2)."""
    hidden = (Dense(256, "relu"), Dense(128, "relu"), Dense(64, "relu"))
    return Network((MaxPool2d(2), Flatten(), *hidden, Dense(classes)), image_shape)


@dataclass(frozen=True, eq=False)
class Part:
    """Samples x float32 [N, C, H, W] with labels y int64 [N] and, or None, weights float32 [N]."""

    x: F32
    y: I64
    weights: F32 | None = None

    def take(self, samples: I64, weights: F32 | None = None) -> Part:
        """Some samples, where the part is."""
        return Part(_devices.take(self.x, samples), _devices.take(self.y, samples), weights)


@dataclass(frozen=True)
class ClassificationConfig:
    """What an individual is evaluated on and how."""

    batch: int = 512
    """Training samples that a generation is evaluated on."""
    objective: ObjectiveName = "cross_entropy"
    """What is evolved: minus a loss, accuracy, or F1 (mean over classes)."""
    gce_q: float = 0.7
    """q of generalized_cross_entropy: 1 is the expected error, towards 0 cross_entropy."""
    positive_weight: float = 1.0
    """Weight of the positive samples in weighted_bce."""
    phenotype: PhenotypeName = "direct"
    """direct: genes are weights; sign: a weight is its gene's sign times a scale per layer."""
    sign_scale: float | None = None
    """Scale of the sign weights; default 1 / sqrt(fan_in) of the layer."""
    precision: HostPrecision = "fp32"
    """Arithmetic of the forward pass: fp32 (the same bits everywhere) or bf16."""
    sampling: Sampling = "epochs"
    """Batches: each sample once per epoch, or more often what is still wrong (importance)."""
    uniform_share: float = 0.2
    """Share of the importance that is the same for all samples."""
    importance_every: int = 50
    """Generations after which the importance is measured anew, on the first individual."""
    shift_share: float = 0.0
    """Share of a batch's images that are moved by one pixel, in any of four directions."""

    def __post_init__(self) -> None:
        for name in ("batch", "importance_every"):
            assign(self, name, integer(name, getattr(self, name), 1, 2**31 - 1))
        for name in ("gce_q", "positive_weight", "uniform_share", "shift_share"):
            assign(self, name, number(name, getattr(self, name)))
        one_of("objective", self.objective, OBJECTIVES)
        check_gce_q(self.gce_q)
        check_positive_weight(self.positive_weight)
        one_of("phenotype", self.phenotype, get_args(PhenotypeName))
        check_sign_scale(self.sign_scale)
        if self.sign_scale is not None:
            assign(self, "sign_scale", float(self.sign_scale))
        one_of("precision", self.precision, get_args(HostPrecision))
        one_of("sampling", self.sampling, get_args(Sampling))
        if not 0 < self.uniform_share <= 1:
            wanted = "a share in (0, 1]"
            raise ArgumentError(message("uniform_share", wanted, repr(self.uniform_share)))
        probability("shift_share", self.shift_share)
        if self.sampling == "importance" and self.objective not in WEIGHTED:
            wanted = f"{' or '.join(WEIGHTED)} with sampling=importance"
            raise ArgumentError(message("objective", wanted, self.objective))


class Classification:
    """A data set, cut and normalised, with one random batch per generation.

    ``train``, ``holdout`` and ``test`` are the parts, ``mean`` float32 the mean image, ``layout``
    where the genes of a genotype belong, ``data_sha256`` the digest of all images and labels.

    Args:
        dataset: what to learn.
        network: the architecture; its input is an image of the data set.
        config: batch, objective and the like.
        seed: of the batches, in [0, 2^64).
        objective: stands in for the config's: (logits float32 [S, B, C], labels int64 [B]) ->
            fitness [S], higher is better.
        phenotype: stands in for the config's: genome [G] -> weights float32 of the network.
        layout: of the genotype, where the phenotype is indirect and its size another.
        device: where the samples are and genomes must be: ``cpu``, ``cuda``, ``cuda:1``, ... Off
            the host, genes are weights and the objective is a loss or accuracy of the kernels.
    """

    def __init__(
        self,
        dataset: Dataset,
        network: Network,
        config: ClassificationConfig,
        *,
        seed: int,
        objective: LogitsObjective | None = None,
        phenotype: Phenotype | None = None,
        layout: GenomeLayout | None = None,
        device: str = "cpu",
    ) -> None:
        if network.input_shape != dataset.image_shape:
            wanted = f"the images {list(dataset.image_shape)} of {dataset.name} as its input"
            raise ShapeError(message("network", wanted, str(list(network.input_shape))))
        train, holdout = holdout_split(len(dataset.train_images))
        if config.batch > len(train):
            wanted = f"1 to {len(train)} samples"
            raise ArgumentError(message("batch", wanted, str(config.batch)))
        self.name = dataset.name
        self.class_names = dataset.class_names
        self.network = network
        self.layout = layout or network.layout
        self.config = config
        self.device = device
        self.seed = integer("seed", seed, 0, 2**64 - 1)
        self.mean = mean_image(dataset.train_images[train])
        self.train = self._part(dataset.train_images[train], dataset.train_labels[train])
        self._images, self._train_samples = dataset.train_images, train
        self.holdout = self._part(dataset.train_images[holdout], dataset.train_labels[holdout])
        self.test = self._part(dataset.test_images, dataset.test_labels)
        self._own_objective, self._own_phenotype = objective, phenotype
        if objective is None:
            _check_outputs(network, dataset, config.objective)
        self._objective = objective or objective_named(
            config.objective, gce_q=config.gce_q, positive_weight=config.positive_weight
        )
        self._phenotype: Callable[..., F32] | None = phenotype or phenotype_named(
            config.phenotype, network.layout, sign_scale=config.sign_scale
        )
        if phenotype is None and self.layout.size != network.layout.size:
            wanted = f"None or the network's {network.layout.size} genes without a phenotype"
            raise ArgumentError(message("layout", wanted, f"{self.layout.size} genes"))
        if device != "cpu" and not (self._objective is None and self._phenotype is None):
            wanted = "cpu for objectives and phenotypes that are computed on the host"
            raise ArgumentError(message("device", wanted, device))
        self._epochs = EpochSampler(len(self.train.y), self.seed)
        self._importance: ImportanceSampler | None = None
        if config.sampling == "importance":
            if objective is not None:
                wanted = "epochs with an objective of your own"
                raise ArgumentError(message("sampling", wanted, config.sampling))
            self._importance = ImportanceSampler(len(self.train.y), config.uniform_share, seed)
        self.data_sha256 = _digest(dataset)

    def begin(self) -> None:
        """Forgets what an earlier run left: a run depends on its settings alone."""
        if self._importance is not None:
            self._importance.forget()

    def settings(self) -> dict[str, Any]:
        """What decides the fitness, as JSON values; own functions are given by their names."""
        own = {"objective": self._own_objective, "phenotype": self._own_phenotype}
        names = {key: name_of(function) for key, function in own.items() if function is not None}
        facts = {"batch_seed": self.seed, "dataset_sha256": self.data_sha256}
        return {**asdict(self.config), **names, **facts}

    def evaluate(self, genomes: F32, rows: I32, generation: int) -> F32:
        """Fitness float32 [S] of individuals in ``rows`` of a bank, on the generation's batch."""
        if self._importance_is_due(generation):
            self._measure_importance(_devices.take(genomes, rows[:1].astype(np.int64)))
        return self.fitness(genomes, rows, self.batch(generation))

    def evaluate_mutants(self, centre: F32, mutants: Sequence[Mutants], generation: int) -> F32:
        """As ``evaluate``, of individuals that are a centre but for some units of one layer.

        Args:
            centre: float32 [1, G].
            mutants: groups of individuals. Those whose slices are no whole genomes want a network
                of dense layers behind layers without genes.
            generation: whose batch it is.

        Gives their fitness float32 [S], group after group. Raises ArgumentError where genes are no
        weights or the network has other layers.
        """
        if self._importance_is_due(generation):
            self._measure_importance(centre)
        part, trace = self.batch(generation), None
        fitness, first = [], 0
        for group in mutants:
            if group.slices.block is None:
                fitness.append(self.fitness(group.genes, _numbers(len(group)), part, first=first))
            else:
                trace = trace or self._trace(centre, part)
                fitness.append(self._mutants_fitness(group, trace, part, first))
            first += len(group)
        return np.concatenate(fitness)

    def check_mutants(self, slices: Sequence[Slices]) -> None:
        """Raises ArgumentError where ``evaluate_mutants`` would for mutants of these slices."""
        if any(one.block is not None for one in slices):
            self._check_direct()
            check_slices(self.network, slices)

    def _check_direct(self) -> None:
        if self._phenotype is not None:
            wanted = "direct, where genes are of layers"
            raise ArgumentError(message("phenotype", wanted, self.config.phenotype))

    def _trace(self, centre: F32, part: Part) -> Trace:
        self._check_direct()
        precision = self.config.precision
        return Trace(self.network, centre, part.x, precision=precision, device=self.device)

    def _mutants_fitness(self, mutants: Mutants, trace: Trace, part: Part, first: int) -> F32:
        """One kernel computes losses of fp32 on the host, several ones everything else."""
        fused = self._objective is None and self.config.objective in WEIGHTED
        if fused and self.device == "cpu" and self.config.precision == "fp32":
            x, rest, genes = trace.from_layer(mutants.slices)
            targets, loss = self._loss_of(part.y)
            losses: F32
            losses, _ = ops.mutant_loss(
                mutants.genes,
                mutants.index,
                genes,
                rest,
                x,
                targets,
                sample_weights=part.weights,
                loss=loss,
            )
            return -losses
        fitness = []
        for piece in trace.pieces(mutants):
            halfway = Part(piece.values, part.y, part.weights)
            rows = np.zeros(len(piece.values), np.int32)
            at = first + piece.slots.start
            fitness.append(self.fitness(piece.genes, rows, halfway, piece.rest, first=at))
        return np.concatenate(fitness)

    def fitness(
        self,
        genomes: F32,
        rows: I32,
        part: Part,
        network: Network | None = None,
        *,
        first: int = 0,
    ) -> F32:
        """The objective float32 [S] on a part. Raises ObjectiveError naming who failed.

        ``network``: what takes the genomes and the part; None means the problem's. Its samples may
        be each individual's own, [S, N, ...]. ``first``: number of the first individual.
        """
        network = network or self.network
        own_samples = len(part.x.shape) == len(network.input_shape) + 2
        fitness = np.empty(len(rows), np.float32)
        for slots, bank, index in self._weights(genomes, rows, part):
            seen = Part(part.x[slots], part.y, part.weights) if own_samples else part
            if self._objective is None:
                fitness[slots] = self._fused_fitness(bank, index, seen, network)
            else:
                logits = self._logits(bank, index, seen, network)
                fitness[slots] = fitness_by(self._objective, logits, part.y, first + slots.start)
        return fitness

    def logits(self, genomes: F32, part: Part) -> F32:
        """Outputs float32 [n, N, C] of genomes [n, G]."""
        rows = np.arange(len(genomes), dtype=np.int32)
        pieces = [
            self._logits(b, i, part, self.network) for _, b, i in self._weights(genomes, rows, part)
        ]
        return np.concatenate(pieces)

    def accuracy(self, genomes: F32, part: Part) -> npt.NDArray[np.float64]:
        """Share of right predictions float64 [n] of genomes [n, G] on a part."""
        rows = np.arange(len(genomes), dtype=np.int32)
        right = np.zeros(len(rows), np.int64)
        for slots, bank, index in self._weights(genomes, rows, part):
            right[slots] = self._correct(bank, index, part, self.network)
        return right / len(part.y)

    def weights(self, genome: F32) -> F32:
        """The network's weights float32 that a genotype [G] stands for."""
        return genome if self._phenotype is None else self._phenotype(genome)

    def batch(self, generation: int) -> Part:
        """What a generation is evaluated on; by importance, as it was measured last."""
        if self._importance is None:
            samples, weights = self.batch_of(generation), None
        else:
            samples, over_chance = self._importance.draw(self.config.batch, generation)
            weights = _devices.from_host(self.device, over_chance)
        if not self.config.shift_share:
            return self.train.take(samples, weights)
        images = self._images[self._train_samples[samples]]
        moved = shifted(images, self.config.shift_share, seed=self.seed, generation=generation)
        x = _devices.from_host(self.device, normalise(moved, self.mean))
        return Part(x, _devices.take(self.train.y, samples), weights)

    def state(self) -> dict[str, F32]:
        """What a run must keep beside its population: the importance, if there is any."""
        return {} if self._importance is None else {"importance.errors": self._importance.errors}

    def restore(self, state: Mapping[str, F32]) -> None:
        """Takes what ``state`` gave."""
        if self._importance is not None:
            self._importance.tell(state["importance.errors"])

    def batch_of(self, generation: int) -> I64:
        """Training samples [batch] of a generation: epoch after epoch without replacement."""
        return self._epochs.draw(self.config.batch, generation)

    def _weights(self, genomes: F32, rows: I32, part: Part) -> Iterator[tuple[slice, F32, I32]]:
        """(slots, bank of weights, index into it): all at once where nothing stands between."""
        if self._phenotype is None and self._objective is None:
            yield slice(0, len(rows)), _devices.moved(self.device, genomes), rows
            return
        outputs = int(np.prod(self.network.output_shape))
        row_bytes = 4 * max(len(part.y) * outputs, self.network.layout.size)
        step = max(1, _SCRATCH_BYTES // row_bytes)
        if self._phenotype is not None:
            scratch = allocate_genomes(min(step, len(rows)), self.network.layout.size)
        for start in range(0, len(rows), step):
            chosen = rows[start : start + step]
            slots = slice(start, start + len(chosen))
            if self._phenotype is None:
                yield slots, genomes, chosen
            else:
                for slot, row in enumerate(chosen):
                    if self._own_phenotype is None:
                        self._phenotype(genomes[row], out=scratch[slot])
                    else:
                        individual = start + slot
                        write_weights(self._own_phenotype, genomes[row], individual, scratch[slot])
                yield slots, scratch, _numbers(len(chosen))

    def _fused_fitness(self, bank: F32, index: I32, part: Part, network: Network) -> F32:
        if self.config.objective == "accuracy":
            right = self._correct(bank, index, part, network)
            return (right / len(part.y)).astype(np.float32)
        targets, name = self._loss_of(part.y)
        loss, _ = ops.network_loss(
            bank,
            network,
            part.x,
            targets,
            index=index,
            sample_weights=part.weights,
            loss=name,
            precision=self.config.precision,
        )
        return -_devices.to_host(loss)

    def _loss_of(self, labels: I64) -> tuple[F32 | I64, LossName]:
        """What the objective's loss compares with, and its name: labels, or for mse one-hot
        float32 [B, C], where the labels are."""
        if self.config.objective != "mse":
            return labels, "cross_entropy"
        classes = np.arange(self.network.output_shape[0])
        hot = np.asarray(_devices.to_host(labels)[:, None] == classes, np.float32)
        targets: F32 = _devices.from_host(self.device, hot)
        return targets, "mse"

    def _correct(self, bank: F32, index: I32, part: Part, network: Network) -> I64:
        """Right predictions int64 [S]."""
        if network.output_shape[0] == 1:
            right = predictions(self._logits(bank, index, part, network))
            return np.asarray((right == _devices.to_host(part.y)).sum(axis=1))
        _, correct = ops.network_loss(
            bank, network, part.x, part.y, index=index, precision=self.config.precision
        )
        return _devices.to_host(correct).astype(np.int64)

    def _importance_is_due(self, generation: int) -> bool:
        return self._importance is not None and generation % self.config.importance_every == 0

    def _measure_importance(self, genome: F32) -> None:
        """Tells the sampler how wrong a genome [1, G] is on each training sample."""
        assert self._importance is not None
        (logits,) = self.logits(genome, self.train)
        self._importance.tell(errors_of(logits, _devices.to_host(self.train.y)))

    def _logits(self, bank: F32, index: I32, part: Part, network: Network) -> F32:
        return _devices.to_host(
            ops.network_forward(bank, network, part.x, index=index, precision=self.config.precision)
        )

    def _part(self, images: npt.NDArray[np.uint8], labels: Labels) -> Part:
        x, y = normalise(images, self.mean), labels.astype(np.int64)
        return Part(_devices.from_host(self.device, x), _devices.from_host(self.device, y))


def _check_outputs(network: Network, dataset: Dataset, objective: ObjectiveName) -> None:
    """Raises ArgumentError where outputs do not fit the labels or the objective."""
    if len(network.output_shape) != 1:
        got = f"{list(network.output_shape)}"
        mend = "add Flatten() at the end"
        raise ArgumentError(message("network", "a flat output [C]", got, mend))
    outputs = network.output_shape[0]
    highest = max(
        int(labels.max(initial=0)) for labels in (dataset.train_labels, dataset.test_labels)
    )
    if highest >= max(outputs, 2):
        wanted = f"more than {highest} outputs for the labels of {dataset.name}"
        raise ArgumentError(message("network", wanted, str(outputs)))
    if outputs == 1 and objective in OF_CLASSES:
        wanted = "weighted_bce, macro_f1 or accuracy for a network of one output"
        raise ArgumentError(message("objective", wanted, objective))


def _digest(dataset: Dataset) -> str:
    """SHA-256 of all images and labels: a run does not go on with other data of the same name."""
    digest = hashlib.sha256()
    for array in (
        dataset.train_images,
        dataset.train_labels,
        dataset.test_images,
        dataset.test_labels,
    ):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _numbers(n: int) -> I32:
    return np.arange(n, dtype=np.int32)
