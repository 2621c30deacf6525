"""Objectives: what a network's outputs are worth. Fitness float32 [S], higher is better.

``cross_entropy`` (Eq. 5.5), ``mse`` and ``accuracy`` are computed by the fused kernel. The others
are functions of logits float32 [S, B, C] and labels int64 [B], as a user's own may be; they need
not be differentiable. These ones give the same bits everywhere: counts are integers, sums ascend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from evokern._values import number
from evokern.backends.reference.activation import exp, log
from evokern.backends.reference.arithmetic import mean_of_samples
from evokern.errors import ArgumentError, DtypeError, ShapeError, message

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

ObjectiveName = Literal[
    "cross_entropy",
    "mse",
    "accuracy",
    "macro_f1",
    "weighted_bce",
    "generalized_cross_entropy",
]
OBJECTIVES: tuple[str, ...] = get_args(ObjectiveName)

OF_CLASSES = ("cross_entropy", "mse", "generalized_cross_entropy")
"""Objectives that need an output per class."""

WEIGHTED = ("cross_entropy", "mse")
"""Objectives whose kernel weighs samples."""

LogitsObjective = Callable[[F32, npt.NDArray[Any]], Any]
"""(logits float32 [S, B, C], labels [B]) -> fitness [S], higher is better."""


def objective_named(
    name: ObjectiveName, *, gce_q: float, positive_weight: float
) -> LogitsObjective | None:
    """The function of logits; None where the fused kernel has the objective."""
    if name == "macro_f1":
        return macro_f1
    if name == "weighted_bce":
        return weighted_bce(positive_weight)
    if name == "generalized_cross_entropy":
        return generalized_cross_entropy(gce_q)
    return None


def predictions(logits: F32) -> I64:
    """Predicted classes int64 [S, B]: the first largest of C logits; of one logit, whether > 0.

    -1, which no label is, where a logit is NaN.
    """
    classes = logits[..., 0] > 0 if logits.shape[-1] == 1 else logits.argmax(axis=-1)
    return np.where(np.isnan(logits).any(axis=-1), -1, classes).astype(np.int64)


def macro_f1(logits: F32, labels: I64) -> F32:
    """The mean over classes of 2 tp / (2 tp + fp + fn).

    Classes that occur neither as a label nor as a prediction take no part (scikit-learn's rule).
    Labels are below C, or 0 and 1 of one logit.
    """
    classes = max(logits.shape[-1], 2)
    _expect_labels(labels, classes)
    predicted = predictions(logits)
    right = np.where(predicted == labels, labels, classes)
    hits = _counts(right, classes)  # int64 [S, classes]
    members = np.bincount(labels, minlength=classes) + _counts(predicted, classes)
    total = np.zeros(len(logits))
    for k in range(classes):
        total = total + 2 * hits[:, k] / np.maximum(members[:, k], 1)  # 0 of an absent class
    present = np.maximum((members > 0).sum(axis=1), 1)
    return np.asarray(total / present, np.float32)


def check_positive_weight(weight: float) -> None:
    """Raises ArgumentError for a weight that is no finite float32 > 0, DtypeError for no number."""
    number("positive_weight", weight)
    with np.errstate(over="ignore"):
        if not 0 < np.float32(weight) < np.inf:
            raise ArgumentError(message("positive_weight", "a finite float32 > 0", repr(weight)))


def weighted_bce(positive_weight: float = 1.0) -> LogitsObjective:
    """Minus the mean binary cross-entropy of every output, positives counted ``positive_weight``.

    Per output z with target t: w t softplus(-z) + (1 - t) softplus(z), w the weight; the mean runs
    over outputs, then samples. One output: labels are 0 or 1. Several: labels int [B] mean one
    against the rest, labels [B, C] of 0 and 1 several classes at once.
    """
    check_positive_weight(positive_weight)
    weight = np.float32(positive_weight)

    def fitness(logits: F32, labels: npt.NDArray[Any]) -> F32:
        targets = _binary_targets(labels, logits.shape[-1])
        with np.errstate(all="ignore"):
            tail = log(np.float32(1) + exp(-np.abs(logits)))
            positive = weight * (np.maximum(-logits, np.float32(0)) + tail)
            negative = np.maximum(logits, np.float32(0)) + tail
            terms = np.where(targets, positive, negative)
        total = np.zeros(terms.shape[:2], np.float32)
        for k in range(terms.shape[2]):
            total = total + terms[..., k]
        return -mean_of_samples(total / np.float32(terms.shape[2]))

    fitness.__qualname__ = f"weighted_bce({positive_weight!r})"  # what a run notes of its objective
    return fitness


def check_gce_q(q: float) -> None:
    """Raises ArgumentError for a q that is no float32 in (0, 1], DtypeError for no number."""
    number("gce_q", q)
    if not (q <= 1 and np.float32(q) > 0):
        raise ArgumentError(message("gce_q", "a float32 in (0, 1]", repr(q)))


def generalized_cross_entropy(q: float = 0.7) -> LogitsObjective:
    """Minus the mean of (1 - p^q) / q, p being the softmax of the right class.

    q = 1 is the expected error 1 - p; towards q = 0 it becomes the cross-entropy. Samples that are
    far from right count less than there, so that batches differ less (Zhang and Sabuncu, 2018,
    Eq. 6).
    """
    check_gce_q(q)
    exponent = np.float32(q)

    def fitness(logits: F32, labels: I64) -> F32:
        _expect_labels(labels, logits.shape[-1])
        with np.errstate(all="ignore"):
            shifted = logits - logits.max(axis=-1, keepdims=True)
            terms = exp(shifted)
            total = terms[..., 0]
            for k in range(1, terms.shape[-1]):
                total = total + terms[..., k]
            of_label = np.take_along_axis(shifted, labels[None, :, None], -1)[..., 0]
            log_p = of_label - log(total)
            return -mean_of_samples(_power_loss(log_p, exponent))

    fitness.__qualname__ = f"generalized_cross_entropy({q!r})"  # what a run notes of its objective
    return fitness


def _power_loss(log_p: F32, q: np.float32) -> F32:
    """(1 - p^q) / q without the digits that 1 - p^q loses where it is small.

    exp(t) - 1 = (u - 1) t / log(u) with u = exp(t) rounded: the errors of u - 1 and log(u) cancel
    (Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 1.14.1).
    """
    t = q * log_p
    u = exp(t)
    small, rest = u == 1, u - np.float32(1)
    change = np.where(u > 0, rest * (t / log(np.where(small, np.float32(2), u))), rest)
    return np.where(small, -log_p, -change / q)


def _binary_targets(labels: npt.NDArray[Any], outputs: int) -> npt.NDArray[np.bool_]:
    """bool [B, outputs]."""
    if labels.ndim == 2:
        if labels.shape[1] != outputs:
            raise ShapeError(message("labels", f"[B, C={outputs}]", f"{list(labels.shape)}"))
        targets = labels == 1
        if not (targets | (labels == 0)).all():
            got = f"{labels[~targets & (labels != 0)][0]}"
            raise ArgumentError(message("labels", "[B, C] of 0 and 1", got))
        return np.asarray(targets)
    _expect_labels(labels, max(outputs, 2))
    return np.asarray(labels[:, None] == (1 if outputs == 1 else np.arange(outputs)))


def _expect_labels(labels: npt.NDArray[Any], classes: int) -> None:
    if labels.dtype.kind not in "iu":
        raise DtypeError(message("labels", "integers [B]", f"{labels.dtype}"))
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        got = f"labels[{wrong.argmax()}] = {labels[wrong.argmax()]}"
        raise ArgumentError(message("labels", f"classes in [0, {classes})", got))


def _counts(values: I64, classes: int) -> I64:
    """How often each class occurs per slot: int64 [S, B] -> int64 [S, classes]."""
    slots = np.arange(len(values))[:, None] * (classes + 1)
    places = slots + np.where((values < 0) | (values > classes), classes, values)
    counts = np.bincount(places.ravel(), minlength=len(values) * (classes + 1))
    return counts.reshape(len(values), classes + 1)[:, :classes]
