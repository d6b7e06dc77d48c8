"""An interval for a figure that was measured on a few songs, by drawing songs again from those there are."""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np

LEVEL = 0.95
RESAMPLES = 9999
_CHUNK = 2_000_000  # numbers that are drawn at once


def bootstrap_interval(
    statistic: Callable[..., np.ndarray],
    data: Sequence[np.ndarray],
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
    expanded: bool = True,
) -> tuple[float, float]:
    """The expanded percentile interval of a paired statistic.

    The percentile interval (Efron, 1979) is too narrow for few samples: it misses the factor n / (n - 1) of the
    variance and takes the normal distribution for Student's t. The expanded one takes percentiles further out, such
    that for a mean of normal samples it agrees with the t interval (Hesterberg, "What Teachers Should Know About the
    Bootstrap", The American Statistician 69(4), 2015).

    Args:
        statistic: of arrays `[..., n]` along their last axis.
        data: arrays `[n]`; what stands at one place in them stays together.
        level: how often such an interval is to hold the true value.
        resamples: how many times n samples are drawn.
        seed: of the draws; the same one gives the same interval.
        expanded: False takes the plain percentiles.

    Returns:
        Its lower and upper end; both are NaN with fewer than two samples.
    """
    n = len(data[0])
    if n < 2:
        return math.nan, math.nan
    random, drawn, left = np.random.default_rng(seed), [], resamples
    while left:
        count = min(left, max(1, _CHUNK // n))
        places = random.integers(0, n, (count, n))
        drawn.append(statistic(*(values[places] for values in data)))
        left -= count
    tail = expanded_tail((1 - level) / 2, n) if expanded else (1 - level) / 2
    low, high = np.quantile(np.concatenate(drawn), [tail, 1 - tail])
    return float(low), float(high)


def expanded_tail(tail: float, n: int) -> float:
    """The share of resamples beyond one end of the expanded interval: `Phi(-sqrt(n / (n - 1)) * t)`.

    Args:
        tail: the share that is meant, such as 0.025.
    """
    return NormalDist().cdf(-math.sqrt(n / (n - 1)) * student_t_quantile(1 - tail, n - 1))


def student_t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t distribution.

    With `t = sqrt(degrees) * tan(angle)` the density is `cos(angle)**(degrees - 1)`, which is summed up here.
    """
    angle = np.linspace(0, math.pi / 2, 20001)
    density = np.cos(angle) ** (degrees - 1)
    cumulative = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    found = np.interp(abs(2 * probability - 1), cumulative / cumulative[-1], angle)
    return math.copysign(math.sqrt(degrees) * math.tan(found), probability - 0.5)
