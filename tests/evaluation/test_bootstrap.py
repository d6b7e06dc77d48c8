"""Intervals over few songs, beside scipy's."""

import math

import numpy as np
import pytest
from scipy import stats

from acestep.evaluation.bootstrap import bootstrap_interval, expanded_tail, student_t_quantile


def mean(values):
    return values.mean(axis=-1)


def ratio(ours, theirs):
    return 1 - ours.sum(axis=-1) / theirs.sum(axis=-1)


@pytest.mark.parametrize("expanded", [False, True])
def test_the_interval_of_a_paired_ratio_is_that_of_scipy(expanded):
    random = np.random.default_rng(3)
    theirs = random.uniform(1, 2, 11)
    ours = theirs * random.normal(0.95, 0.03, 11)
    level = 1 - 2 * expanded_tail(0.025, 11) if expanded else 0.95
    expected = stats.bootstrap(
        (ours, theirs),
        lambda ours, theirs, axis=-1: ratio(ours, theirs),
        paired=True,
        vectorized=True,
        confidence_level=level,
        n_resamples=3000,
        method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval
    found = bootstrap_interval(ratio, (ours, theirs), resamples=3000, seed=5, expanded=expanded)
    assert found == pytest.approx((expected.low, expected.high), rel=1e-6)


@pytest.mark.parametrize("degrees", [1, 2, 4, 11, 60])
def test_quantiles_of_students_t_are_those_of_scipy(degrees):
    for probability in (0.0005, 0.025, 0.3, 0.5, 0.9, 0.975, 0.999):
        expected = stats.t.ppf(probability, degrees)
        assert student_t_quantile(probability, degrees) == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_expanded_intervals_of_normal_samples_are_as_wide_as_the_t_interval_and_plain_ones_narrower():
    random, widths = np.random.default_rng(0), []
    for _ in range(60):
        values = random.normal(size=12)
        low, high = stats.t.interval(0.95, 11, values.mean(), stats.sem(values))
        found = [bootstrap_interval(mean, (values,), resamples=2000, expanded=kind) for kind in (True, False)]
        widths.append([(upper - lower) / (high - low) for lower, upper in found])
    expanded, plain = np.mean(widths, axis=0)
    assert expanded == pytest.approx(1, abs=0.04)
    assert plain < 0.9


def test_the_expanded_interval_holds_the_true_value_about_as_often_as_it_says():
    """Eight songs, as losses are: the plain one fails in one of ten."""
    random, held = np.random.default_rng(1), np.zeros(2)
    for _ in range(400):
        values = random.normal(size=8)
        for kind in (0, 1):
            low, high = bootstrap_interval(mean, (values,), resamples=500, expanded=bool(kind))
            held[kind] += low <= 0 <= high
    plain, expanded = held / 400
    assert plain < 0.91
    assert 0.92 < expanded < 0.98


def test_a_single_sample_has_no_interval_and_draws_in_portions_change_nothing(monkeypatch):
    assert all(map(math.isnan, bootstrap_interval(mean, (np.ones(1),))))
    values = np.random.default_rng(2).normal(size=7)
    whole = bootstrap_interval(mean, (values,), resamples=999)
    monkeypatch.setattr("acestep.evaluation.bootstrap._CHUNK", 700)
    assert bootstrap_interval(mean, (values,), resamples=999) == whole
    assert bootstrap_interval(mean, (values,), resamples=999, seed=1) != whole
