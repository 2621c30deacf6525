"""Settings of the algorithm: quotas, sizes, what is refused."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scalar_rules import F

from evokern.drivers.config import EAConfig
from evokern.errors import ArgumentError, DtypeError


def test_the_bank_is_half_as_large_again_with_truncation_and_never_more_than_twice():
    for population in (10, 101, 1000):
        truncated = EAConfig(population=population)
        assert truncated.bank_rows <= 1.5 * population
        assert replace(truncated, elites=0).bank_rows <= 1.5 * population
        assert replace(truncated, elites=1.0, crossover_share=0).bank_rows == population
        for options in (
            {"survival": "plus"},
            {"selection": "tournament"},
            {"selection": "exponential_rank"},
            {"truncation": 1.0},
        ):
            for elites in (0, 0.05):
                config = replace(truncated, elites=elites, **options)
                assert config.bank_rows == 2 * population - config.elite_count
    assert EAConfig(population=100, offspring=700, elites=0, truncation=0.1).bank_rows == 710


def test_quotas_are_those_of_the_decimal_numbers():
    config = EAConfig(population=100, elites=0.29, crossover_share=0.57, truncation=0.29)
    assert (config.elite_count, config.crossover_count, config.parent_count) == (29, 57, 29)
    assert 0.29 * 100 < 29
    thesis = EAConfig()  # Table 5.1
    assert (thesis.elite_count, thesis.crossover_count, thesis.parent_count) == (50, 500, 500)
    assert (thesis.sigma, thesis.alpha, thesis.sigma_schedule) == (0.001, 1, "constant")
    small = EAConfig(population=10, elites=0.05, crossover_share=0.25, truncation=0.05)
    assert (small.elite_count, small.crossover_count, small.parent_count) == (0, 2, 1)
    wide = EAConfig(population=10, offspring=70, elites=0.1, crossover_share=0.5)
    assert (wide.elite_count, wide.crossover_count, wide.parent_count) == (7, 35, 5)
    assert EAConfig(elites=5).elite_count == 5
    assert EAConfig(population=10, elites=1.0, crossover_share=0).elite_count == 10
    assert_array_equal(EAConfig(crossover_parents=3).rank_weights, np.array([3, 2, 1], F) / F(6))


def test_a_cosine_falls():
    with pytest.raises(ArgumentError, match=r"sigma_min: expected at most sigma, 0\.001, for cos"):
        EAConfig(sigma_schedule="cosine", sigma_min=0.002)
    EAConfig(sigma_schedule="cosine", sigma_min=0.001)
    EAConfig(sigma_schedule="power", sigma_min=0.002)  # which has no use for it


def test_numbers_of_numpy_are_settings_like_any_other():
    numpy = EAConfig(
        population=np.int64(20),
        elites=np.float64(0.1),
        alpha=np.float32(0.5),
        sigma=1,
        seed=np.uint64(7),
    )
    assert numpy == EAConfig(population=20, elites=0.1, alpha=0.5, sigma=1.0, seed=7)
    assert json.loads(json.dumps(asdict(numpy)))["elites"] == 0.1
    assert EAConfig(elites=np.int32(1)).elite_count == 1


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"population": 0}, "population"),
        ({"generations": 0}, "generations"),
        ({"crossover_parents": 1}, "crossover_parents"),
        ({"tournament_size": 0}, "tournament_size"),
        ({"sigma_period": 0}, "sigma_period"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"elites": 1.5}, "elites"),
        ({"elites": -1}, "elites"),
        ({"elites": float("nan")}, "elites"),
        ({"elites": 0.5, "crossover_share": 0.6}, "elites \\+ crossover_share"),
        ({"elites": 21, "offspring": 30, "crossover_share": 0}, "elites"),
        ({"offspring": 19}, "offspring"),
        ({"offspring": 0, "survival": "plus"}, "offspring"),
        ({"truncation": 1.1}, "truncation"),
        ({"alpha": -0.1}, "alpha"),
        ({"sigma": -0.1}, "sigma"),
        ({"sigma": float("nan")}, "sigma"),
        ({"tau": float("inf")}, "tau"),
        ({"sigma_decay": 0.0}, "sigma_decay"),
        ({"rank_base": 1.01}, "rank_base"),
        ({"survival": "Plus"}, "survival"),
        ({"selection": "turnament"}, "selection"),
        ({"crossover": "none"}, "crossover"),
        ({"parent_weights": "ranks"}, "parent_weights"),
        ({"mutation": "gauss"}, "mutation"),
        ({"sigma_schedule": "cos"}, "sigma_schedule"),
        ({"sigma_rule": "authors"}, "sigma_rule"),
        ({"init": "glorot"}, "init"),
    ],
)
def test_settings_out_of_range_are_refused(options, name):
    with pytest.raises(ArgumentError, match=f"^{name}: expected"):
        EAConfig(**({"population": 20} | options))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"population": 10.0}, "population"),
        ({"offspring": 30.0}, "offspring"),
        ({"seed": "1"}, "seed"),
        ({"elites": True}, "elites"),
        ({"sigma": "0.1"}, "sigma"),
        ({"alpha": None}, "alpha"),
        ({"lineages": 1}, "lineages"),
    ],
)
def test_settings_of_another_type_are_refused(options, name):
    with pytest.raises(DtypeError, match=f"^{name}: expected"):
        EAConfig(**({"population": 20} | options))
