"""Many runs side by side: groups that differ only in the seed, median curves, statistics.

Quartiles are NumPy's (linear between the two neighbours).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from evokern.errors import ArgumentError, BackendError, message
from evokern.metrics import RunRecords

F64 = npt.NDArray[np.float64]

X = Literal["generation", "samples", "seconds", "cpu_seconds"]

_DATA = "dataset_sha256"
# May differ within a group: seeds, and what does not change the curve.
_NOT_SETTINGS = (
    *("seed", "batch_seed", "run_dir", "threads", "log_every", "finalists", "ensemble"),
    _DATA,
)
_DIGEST_SHOWN = 8  # characters
_MOST_WAYS = 50_000  # that are counted one by one: two samples of nine


@dataclass(frozen=True)
class Summary:
    """Five numbers of a sample of size ``n``."""

    n: int
    median: float
    q1: float
    q3: float
    minimum: float
    maximum: float


@dataclass(frozen=True)
class RankTest:
    """A Mann-Whitney U test: the statistic of the first sample, p, and how p was found."""

    u: float
    p: float
    method: Literal["exact", "asymptotic"]


@dataclass(frozen=True)
class Group:
    """Runs that differ only in the seed, and what tells them from the other groups."""

    label: str
    runs: tuple[RunRecords, ...]


@dataclass(frozen=True)
class Curve:
    """Median and quartiles over ``runs`` runs at the places ``x``; all float64 [N]."""

    x: F64
    median: F64
    q1: F64
    q3: F64
    runs: int


def summarise(values: Sequence[float]) -> Summary:
    """Median, quartiles and range. Raises ArgumentError for no values or one that is NaN."""
    sample = _sample("values", values)
    q1, median, q3 = (float(q) for q in np.percentile(sample, (25, 50, 75)))
    return Summary(len(sample), median, q1, q3, float(sample.min()), float(sample.max()))


def mann_whitney(first: Sequence[float], second: Sequence[float]) -> RankTest:
    """One-sided Mann-Whitney U test: is ``first`` greater than ``second``? (thesis, section 5.3)

    U counts the pairs in which ``first`` is greater, ties by half. p is exact: the share of all
    ways to deal the values to the samples that have such a U. Where values are equal and there are
    more than 50,000 ways, it is from the normal approximation with correction for ties and
    continuity. It is not corrected for the number of tests.

    Raises ArgumentError for an empty sample or NaN, BackendError without SciPy.
    """
    samples = _sample("first", first), _sample("second", second)
    pooled = np.concatenate(samples)
    ties = len(np.unique(pooled)) < len(pooled)
    few = comb(len(pooled), len(first)) <= _MOST_WAYS
    method: Literal["exact", "asymptotic"] = "asymptotic" if ties and not few else "exact"
    test = scipy_stats().mannwhitneyu(*samples, alternative="greater", method=method)
    p = float(test.pvalue)
    if ties and few:  # SciPy's exact p is for different values only
        ranks = scipy_stats().rankdata(pooled)
        sums = np.array(list(combinations(ranks, len(first)))).sum(axis=1)
        p = float((sums >= ranks[: len(first)].sum()).mean())
    return RankTest(float(test.statistic), p, method)


def scipy_stats() -> Any:
    """The module scipy.stats. Raises BackendError where SciPy is not installed."""
    try:
        from scipy import stats
    except ImportError as error:
        raise BackendError(
            f"SciPy is needed for significance tests: {error}; pip install 'evokern[stats]'"
        ) from error
    return stats


def group_runs(runs: Sequence[RunRecords], keys: Sequence[str] = ()) -> list[Group]:
    """Runs whose settings are equal but for the seed, or equal in ``keys`` if there are any.

    How often a run was recorded is no setting, nor is how its network was chosen at the end.
    Labels name what differs, such as ``sigma=0.01, population=100``, and other data of the same
    name by their digest; groups are in the order of those values. A key of a nested setting may
    leave out what it is nested in. Raises ArgumentError for a key that no run has.
    """
    settings = [flatten(run.config) for run in runs]
    names = _distinct(name for config in settings for name in config)
    if keys:
        chosen = _distinct(name for key in keys for name in _matching(key, names))
    else:
        chosen = [name for name in names if name.rpartition(".")[2] not in _NOT_SETTINGS]
    members: dict[str, list[int]] = {}
    for i, config in enumerate(settings):
        members.setdefault(repr([config.get(name) for name in chosen]), []).append(i)
    told = _telling([settings[numbers[0]] for numbers in members.values()], chosen, keys)
    groups = []
    for numbers in members.values():
        parts = [numbers] if keys else _by_data(settings, numbers)
        telling = told if len(parts) == 1 else [*told, _DATA]
        for part in parts:
            config = settings[part[0]]
            place = [_order(config.get(name)) for name in telling]
            label = _label(config, telling, names)
            groups.append((place, Group(label, tuple(runs[i] for i in part))))
    return [group for _, group in sorted(groups, key=lambda entry: entry[0])]


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names: ``{"ea": {"sigma": 1}}`` is ``{"ea.sigma": 1}``."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def metric_names(run: RunRecords) -> list[str]:
    """The numeric entries of a run's records, but for those that are the places of a curve."""
    places = ("generation", "iteration", "samples", "seconds", "cpu_seconds")
    named = _distinct(name for record in run.records for name in record)
    return [name for name in named if name not in places and len(_points(run, name, None)[0])]


def median_curve(group: Group, metric: str, x: X = "generation") -> Curve:
    """The group's median and quartiles of a metric over generations, samples or time.

    The curve covers what all runs of the group have: from the latest first record to the earliest
    last one. Its places are those of all records in between; a run without a record there counts
    with the value on the line between its neighbouring records. ``generation`` means the
    iteration where training is by gradients.

    Raises ArgumentError if a run lacks the metric or the runs have no place in common.
    """
    curves = [_points(run, metric, x) for run in group.runs]
    for run, (places, _) in zip(group.runs, curves, strict=True):
        if not len(places):
            name, got, known = "metric", metric, metric_names(run)
            if metric in known:
                name, got = "x", x
                known = [place for place in get_args(X) if len(_points(run, metric, place)[0])]
            has = f"one that {run.folder} has: {', '.join(known) or 'none'}"
            raise ArgumentError(message(name, has, got))
        if (np.diff(places) < 0).any():
            raise ArgumentError(
                message(f"x={x}", "ascending values", f"a step back in {run.folder}")
            )
    start = max(places[0] for places, _ in curves)
    end = min(places[-1] for places, _ in curves)
    if start > end:
        got = f"runs of {group.label} that do not overlap"
        raise ArgumentError(message("runs", f"some {x} that all of a group have", got))
    grid = np.unique(np.concatenate([places for places, _ in curves]))
    grid = grid[(grid >= start) & (grid <= end)]
    values = np.stack([np.interp(grid, places, of_run) for places, of_run in curves])
    with np.errstate(invalid="ignore"):  # infinities: the quartile is NaN, the curve has a gap
        q1, median, q3 = np.percentile(values, (25, 50, 75), axis=0)
    return Curve(grid, median, q1, q3, len(curves))


def last_value(run: RunRecords, metric: str) -> float | None:
    """A run's last value of a metric, by which section 5.3 of the thesis compares runs, or None."""
    values = _points(run, metric, None)[1]
    return float(values[-1]) if len(values) else None


def first_reached(run: RunRecords, metric: str, level: float, x: X = "seconds") -> float | None:
    """Where the first record of a metric that is at least ``level`` stands, or None."""
    places, values = _points(run, metric, x)
    reached = places[values >= level]
    return float(reached[0]) if len(reached) else None


def _points(run: RunRecords, metric: str, x: X | None) -> tuple[F64, F64]:
    """Places and values float64 [N] of the records that have both; places 0, 1, ... for None."""
    places, values = [], []
    for i, record in enumerate(run.records):
        place = i if x is None else record.get(x)
        if place is None and x == "generation":
            place = record.get("iteration")
        value = record.get(metric)
        if _is_number(place) and _is_number(value):
            places.append(place)
            values.append(value)
    return np.array(places, np.float64), np.array(values, np.float64)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _sample(name: str, values: Sequence[float]) -> F64:
    sample = np.asarray(values, np.float64)
    if sample.ndim != 1 or not len(sample) or np.isnan(sample).any():
        raise ArgumentError(message(name, "at least one value, none NaN", repr(list(values))))
    return sample


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _matching(key: str, names: Sequence[str]) -> list[str]:
    wanted = key.replace("-", "_")
    found = [name for name in names if name == wanted or name.endswith(f".{wanted}")]
    if not found:
        raise ArgumentError(message("group_by", f"one of {', '.join(names)}", repr(key)))
    return found


def _by_data(settings: Sequence[dict[str, Any]], numbers: Sequence[int]) -> list[list[int]]:
    """Runs of one group apart by the digest of their data, if some that have one differ in it."""
    parts: dict[str | None, list[int]] = {}
    for i in numbers:
        parts.setdefault(settings[i].get(_DATA), []).append(i)
    return list(parts.values()) if len(parts.keys() - {None}) > 1 else [list(numbers)]


def _telling(
    configs: Sequence[dict[str, Any]], chosen: Sequence[str], keys: Sequence[str]
) -> list[str]:
    """The settings that tell groups apart.

    Lists (the layers of a network) and what only some groups have (an algorithm's own settings)
    are named only where nothing else tells them apart.
    """
    if keys:
        return list(chosen)
    differ = [n for n in chosen if len({repr(c[n]) for c in configs if n in c}) > 1]
    plain = [n for n in differ if not any(isinstance(c.get(n), list) for c in configs)]
    for names in (plain, differ):
        if len({repr([c.get(n) for n in names]) for c in configs}) == len(configs):
            return names
    return [n for n in chosen if len({repr(c.get(n)) for c in configs}) > 1]


def _label(config: dict[str, Any], told: Sequence[str], names: Sequence[str]) -> str:
    if not told:
        whole = [str(config[name]) for name in ("algorithm", "dataset") if name in config]
        return " ".join(whole) or "all runs"
    parts = []
    for name in told:
        if name not in config:
            continue
        short = name.rpartition(".")[2]
        unique = sum(other.rpartition(".")[2] == short for other in names) == 1
        value = str(config[name])[:_DIGEST_SHOWN] if short == _DATA else config[name]
        parts.append(f"{short if unique else name}={value}")
    return ", ".join(parts) or "none of these settings"


def _order(value: Any) -> tuple[int, float, str]:
    return (0, float(value), "") if _is_number(value) else (1, 0.0, str(value))
