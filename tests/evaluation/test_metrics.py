"""The metrics beside closed forms and scipy."""

import re

import evaluate
import numpy as np
import pytest
from scipy import stats
from scipy.linalg import sqrtm

from acestep.evaluation.bootstrap import expanded_tail
from acestep.evaluation.metrics import FrechetDistance, PairedImprovement, TrainingSimilarity, frechet_distance
from acestep.evaluation.music_metrics import KeyScore, TempoAccuracy

METRICS = (PairedImprovement, FrechetDistance, TrainingSimilarity, TempoAccuracy, KeyScore)


def covariance(random, size: int, samples: int | None = None) -> np.ndarray:
    values = random.normal(size=(samples or 3 * size, size)) * random.uniform(0.2, 3, size)
    return np.cov(values, rowvar=False)


def by_scipy(mean1, covariance1, mean2, covariance2) -> float:
    root = sqrtm(covariance1 @ covariance2)
    return float(((mean1 - mean2) ** 2).sum() + np.trace(covariance1 + covariance2 - 2 * root.real))


def test_frechet_distance_of_normal_distributions_of_one_dimension_is_its_closed_form():
    found = frechet_distance(np.array([1.5]), np.array([[4.0]]), np.array([-0.5]), np.array([[0.25]]))
    assert found == pytest.approx((1.5 + 0.5) ** 2 + (2 - 0.5) ** 2)


def test_frechet_distance_of_commuting_covariances_is_its_closed_form():
    """Of one basis, the distance is that of the standard deviations along it."""
    random = np.random.default_rng(0)
    basis, _ = np.linalg.qr(random.normal(size=(6, 6)))
    first, second = random.uniform(0, 3, 6), random.uniform(0, 3, 6)
    mean1, mean2 = random.normal(size=(2, 6))
    found = frechet_distance(mean1, basis * first**2 @ basis.T, mean2, basis * second**2 @ basis.T)
    assert found == pytest.approx(((mean1 - mean2) ** 2).sum() + ((first - second) ** 2).sum())


@pytest.mark.parametrize("size", [2, 16, 64])
def test_frechet_distance_is_that_of_scipys_matrix_root(size):
    random = np.random.default_rng(size)
    mean1, mean2 = random.normal(size=(2, size))
    arguments = (mean1, covariance(random, size), mean2, covariance(random, size))
    assert frechet_distance(*arguments) == pytest.approx(by_scipy(*arguments), rel=1e-8)


def test_frechet_distance_of_singular_covariances_is_finite_symmetric_and_zero_to_itself():
    random = np.random.default_rng(1)
    few, other = covariance(random, 20, 5), covariance(random, 20, 7)
    zero = np.zeros(20)
    assert frechet_distance(zero, few, zero, few) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(zero, few, zero, other) == pytest.approx(frechet_distance(zero, other, zero, few), rel=1e-6)
    assert frechet_distance(zero, few, zero, np.zeros((20, 20))) == pytest.approx(np.trace(few))


def test_the_metric_of_samples_is_that_of_their_means_and_covariances():
    random = np.random.default_rng(2)
    generated, real = random.normal(size=(40, 5)), random.normal(1, 2, size=(90, 5))
    metric = FrechetDistance()
    found = metric.compute(predictions=[generated], references=[real])
    expected = by_scipy(generated.mean(0), np.cov(generated.T), real.mean(0), np.cov(real.T))
    assert found == {"frechet_distance": pytest.approx(expected), "predictions": 40, "references": 90}
    for part in range(3):  # a set at a time, one of the sides may have none left
        metric.add(prediction=generated[part * 20 : part * 20 + 20], reference=real[part * 30 : part * 30 + 30])
    assert metric.compute() == found
    with pytest.raises(ValueError, match="at least two vectors on either side"):
        metric.compute(predictions=[generated[:1]], references=[real])


def test_improvement_is_told_of_the_mean_loss_and_its_interval_draws_whole_songs():
    predictions, references = [1.0, 1.2, 0.8, 2.0, 2.4], [1.2, 1.1, 1.0, 2.2, 2.5]
    songs = ["a", "b", "b", "c", "d"]
    found = PairedImprovement().compute(predictions=predictions, references=references, songs=songs, seed=4)
    assert found["loss"] == pytest.approx(7.4 / 5)
    assert found["reference_loss"] == pytest.approx(8.0 / 5)
    assert found["improvement"] == pytest.approx(0.6 / 8)
    assert (found["songs"], found["better"]) == (4, 4)  # b is better in all, though not in its first segment
    expected = stats.bootstrap(
        ([1.0, 2.0, 2.0, 2.4], [1.2, 2.1, 2.2, 2.5]),
        lambda ours, theirs, axis=-1: 1 - ours.sum(axis=-1) / theirs.sum(axis=-1),
        paired=True,
        vectorized=True,
        confidence_level=1 - 2 * expanded_tail(0.025, 4),
        n_resamples=9999,
        method="percentile",
        rng=np.random.default_rng(4),
    ).confidence_interval
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))


def test_pairing_takes_out_what_makes_a_song_hard_for_both():
    random = np.random.default_rng(5)
    hard = random.uniform(0.5, 2, 10)
    songs = [str(number) for number in range(10)]
    metric = PairedImprovement()
    together = metric.compute(predictions=hard * 0.97, references=hard, songs=songs)
    assert together["low"] == pytest.approx(0.03)
    assert together["high"] == pytest.approx(0.03)
    apart = metric.compute(predictions=np.roll(hard, 3) * 0.97, references=hard, songs=songs)
    assert apart["improvement"] == pytest.approx(0.03)
    assert apart["low"] < 0 < apart["high"]


def test_one_song_has_an_improvement_and_no_interval():
    found = PairedImprovement().compute(predictions=[1.0, 1.0], references=[2.0, 1.0], songs=["a", "a"])
    assert (found["improvement"], found["low"], found["high"]) == (pytest.approx(1 / 3), None, None)


def test_similarity_to_training_songs_is_measured_by_what_held_out_songs_have():
    held = np.arange(101) / 1000  # its 99th percentile is 0.099
    found = TrainingSimilarity().compute(predictions=[[0.05, 0.2, 0.0985, 0.99]], references=[held])
    assert found["threshold"] == pytest.approx(0.099)
    assert found["share_above"] == 0.5
    assert (found["highest"], found["held_out_highest"]) == (0.99, 0.1)
    assert (found["mean"], found["held_out_mean"]) == (pytest.approx(1.3385 / 4), pytest.approx(0.05))


def test_tempo_is_kept_within_four_percent_and_for_the_second_accuracy_up_to_the_level_of_the_beat():
    measured = [124.0, 125.5, 60.0, 240.0, 40.5, 360.0, 80.0]
    found = TempoAccuracy().compute(predictions=measured, references=[120.0] * 7)
    assert found == {"accuracy1": pytest.approx(1 / 7), "accuracy2": pytest.approx(5 / 7), "pieces": 7}


@pytest.mark.parametrize(
    ("estimated", "reference", "score"),
    [
        ("Db minor", "C# minor", 1),
        ("G major", "C major", 0.5),
        ("F major", "C major", 0),  # a fifth below
        ("E minor", "A minor", 0.5),
        ("A minor", "C major", 0.3),
        ("C major", "A minor", 0.3),
        ("Eb minor", "C major", 0),
        ("C minor", "C major", 0.2),
        ("D major", "C major", 0),
    ],
)
def test_keys_score_as_at_mirex(estimated, reference, score):
    found = KeyScore().compute(predictions=[estimated, "B major"], references=[reference, "B major"])
    assert found["score"] == pytest.approx((score + 1) / 2)
    assert found["accuracy"] == (1 if score == 1 else 0.5)


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_say_what_they_are_and_whence(metric):
    made = metric()
    assert isinstance(made, evaluate.Metric)
    assert re.search(r"\b(19|20)\d\d\b", made.citation)
    assert len(made.description) > 100
    for name in (*made.features, "Returns:"):
        assert name in made.inputs_description
    assert made.inputs_description in made.compute.__doc__


def test_metrics_leave_nothing_in_the_librarys_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "cache")
    TempoAccuracy().compute(predictions=[1.0], references=[1.0])
    FrechetDistance().compute(predictions=[np.eye(3)], references=[np.eye(3)])
    assert list(tmp_path.iterdir()) == []
