"""Metrics of an adapter as classes of the library `evaluate`; they compute in memory and touch no cache and no network.

PairedImprovement().compute(predictions=[1.1, 1.3], references=[1.2, 1.3], songs=["a", "b"])
FrechetDistance().compute(predictions=[generated], references=[real])  # arrays [count, dimensions]
"""

import math
from typing import Any

import datasets
import evaluate
import numpy as np
from datasets import Sequence, Value

from acestep.evaluation.bootstrap import LEVEL, RESAMPLES, bootstrap_interval


class InMemoryMetric(evaluate.Metric):
    """An `evaluate.Metric` that leaves nothing on disk."""

    def __init__(self, **options: Any):
        super().__init__(keep_in_memory=True, **options)

    def _build_data_dir(self) -> str:
        return self._data_dir_root  # the library makes a folder here, which only metrics on disk use


class PairedImprovement(InMemoryMetric):
    """How much lower one model's losses are than another's on the same songs, with an interval over songs."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=(
                "The relative improvement 1 - sum(predictions) / sum(references) of losses at the same (t, noise) "
                "pairs, with a bootstrap interval. Songs are what is drawn again, since the segments of one song are "
                "alike; base and adapter stay paired, so that what makes a song hard for both cancels out."
            ),
            citation=(
                "Efron, B. Bootstrap Methods: Another Look at the Jackknife. The Annals of Statistics 7(1), 1979.\n"
                "Hesterberg, T. C. What Teachers Should Know About the Bootstrap: Resampling in the Undergraduate "
                "Statistics Curriculum. The American Statistician 69(4), 2015. (The expanded percentile interval.)"
            ),
            inputs_description=(
                "Args:\n"
                "    predictions: losses of the model in question, one a row of the dataset.\n"
                "    references: losses of the model that it is compared with, for the same rows.\n"
                "    songs: the song that each row belongs to.\n"
                "    level, resamples, seed: of the interval.\n"
                "Returns:\n"
                "    loss, reference_loss: means over the rows.\n"
                "    improvement: share by which the loss is lower, negative where it is higher.\n"
                "    low, high: ends of its interval, None with fewer than two songs.\n"
                "    songs, better: how many songs there are, and how many have a lower mean loss."
            ),
            features=datasets.Features(
                {"predictions": Value("float64"), "references": Value("float64"), "songs": Value("string")}
            ),
        )

    def _compute(
        self,
        predictions: list[float],
        references: list[float],
        songs: list[str],
        level: float = LEVEL,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> dict[str, Any]:
        _, numbers = np.unique(np.array(songs), return_inverse=True)
        ours, theirs = (np.bincount(numbers, weights=losses) for losses in (predictions, references))
        low, high = bootstrap_interval(_improvement, (ours, theirs), level, resamples, seed)
        return {
            "loss": float(np.mean(predictions)),
            "reference_loss": float(np.mean(references)),
            "improvement": float(_improvement(ours, theirs)),
            "low": None if math.isnan(low) else low,
            "high": None if math.isnan(high) else high,
            "songs": len(ours),
            "better": int((ours < theirs).sum()),
        }


def _improvement(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """The ratio of sums: a song with several segments counts with each of them."""
    return 1 - ours.sum(axis=-1) / theirs.sum(axis=-1)


class FrechetDistance(InMemoryMetric):
    """Squared Fréchet distance of two sets of vectors, each taken for a normal distribution."""

    def _info(self) -> evaluate.MetricInfo:
        vectors = Sequence(Sequence(Value("float64")))
        return evaluate.MetricInfo(
            description=(
                "|m1 - m2|^2 + trace(C1 + C2 - 2 (C1 C2)^(1/2)) of the means m and covariances C (divided by n - 1) of "
                "generated and real vectors: the Fréchet Inception Distance, for music the Fréchet Audio Distance. "
                "Lower is nearer; 0 means equal means and covariances. It grows as there are fewer vectors, so that "
                "only figures of equally many vectors can be compared."
            ),
            citation=(
                "Dowson, D. C., Landau, B. V. The Fréchet Distance between Multivariate Normal Distributions. Journal "
                "of Multivariate Analysis 12(3), 1982. (The formula.)\n"
                "Heusel, M. et al. GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium. "
                "NeurIPS 2017, arXiv:1706.08500.\n"
                "Kilgour, K. et al. Fréchet Audio Distance: A Reference-Free Metric for Evaluating Music Enhancement "
                "Algorithms. Interspeech 2019, arXiv:1812.08466.\n"
                "Gui, A. et al. Adapting Fréchet Audio Distance for Generative Music Evaluation. ICASSP 2024, "
                "arXiv:2311.01616. (CLAP embeddings; the bias of small samples.)"
            ),
            inputs_description=(
                "Args:\n"
                "    predictions, references: sets of vectors `[count, dimensions]`, of generated and of real music. "
                "Any number of sets may be given, a pair at a time; they are put together.\n"
                "Returns:\n"
                "    frechet_distance, and predictions, references: how many vectors there were."
            ),
            features=datasets.Features({"predictions": vectors, "references": vectors}),
        )

    def _compute(self, predictions: list, references: list) -> dict[str, Any]:
        generated, real = (
            np.concatenate([np.array(one, dtype=np.float64) for one in sets if len(one)])
            for sets in (predictions, references)
        )
        if min(len(generated), len(real)) < 2:
            raise ValueError("a covariance needs at least two vectors on either side.")
        means = generated.mean(axis=0), real.mean(axis=0)
        covariances = [np.atleast_2d(np.cov(side, rowvar=False)) for side in (generated, real)]
        distance = frechet_distance(means[0], covariances[0], means[1], covariances[1])
        return {"frechet_distance": distance, "predictions": len(generated), "references": len(real)}


def frechet_distance(mean1: np.ndarray, covariance1: np.ndarray, mean2: np.ndarray, covariance2: np.ndarray) -> float:
    """Squared Fréchet distance of two normal distributions.

    The trace of `(C1 C2)^(1/2)` is that of `(C1^(1/2) C2 C1^(1/2))^(1/2)`, which is symmetric: its eigenvalues
    cannot turn complex where a covariance is singular, as those of a general matrix do.

    Args:
        mean1, mean2: `[d]`.
        covariance1, covariance2: `[d, d]`.
    """
    values, vectors = np.linalg.eigh(covariance1)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    crossed = np.linalg.eigvalsh(root @ covariance2 @ root)
    trace = np.trace(covariance1) + np.trace(covariance2) - 2 * np.sqrt(crossed.clip(min=0)).sum()
    return float(((mean1 - mean2) ** 2).sum() + max(trace, 0.0))


class TrainingSimilarity(InMemoryMetric):
    """Whether what was generated is nearer to the training songs than unseen songs are."""

    def _info(self) -> evaluate.MetricInfo:
        similarities = Sequence(Value("float64"))
        return evaluate.MetricInfo(
            description=(
                "Compares the similarities of generated windows to their nearest training windows with those of "
                "held-out songs, which cannot have been copied. Where a share well above 0.01 of the generated windows "
                "is nearer than 99 of 100 held-out ones, the adapter plays back parts of its training songs."
            ),
            citation=(
                "Somepalli, G. et al. Diffusion Art or Digital Forgery? Investigating Data Replication in Diffusion "
                "Models. CVPR 2023, arXiv:2212.03860. (Similarity to the nearest training image, against a baseline.)\n"
                "Bralios, D. et al. Generation or Replication: Auscultating Audio Latent Diffusion Models. ICASSP "
                "2024, arXiv:2310.10604. (The same for audio.)"
            ),
            inputs_description=(
                "Args:\n"
                "    predictions: for each generated piece the similarities of its windows to the nearest training "
                "window.\n"
                "    references: the same for held-out songs. The two are put together, not paired.\n"
                "Returns:\n"
                "    mean, highest: of the generated windows.\n"
                "    held_out_mean, held_out_highest: of the held-out ones.\n"
                "    threshold: the 99th percentile of the held-out ones.\n"
                "    share_above: of the generated windows, how many lie above it."
            ),
            features=datasets.Features({"predictions": similarities, "references": similarities}),
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        generated, held = (np.concatenate([np.asarray(one) for one in sets]) for sets in (predictions, references))
        threshold = float(np.quantile(held, 0.99))
        return {
            "mean": float(generated.mean()),
            "highest": float(generated.max()),
            "held_out_mean": float(held.mean()),
            "held_out_highest": float(held.max()),
            "threshold": threshold,
            "share_above": float((generated > threshold).mean()),
        }
