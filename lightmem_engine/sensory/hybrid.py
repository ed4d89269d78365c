"""Topic boundaries from dips of similarity and from attention that stops looking back. Pure numpy.

Weights, priors and threshold were chosen on development data, one setting for small talk, task dialogues and joined
chats (`bench/LOG.md`); a session's own statistics take over as it grows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Series = npt.NDArray[np.float64]


# Per feature: its weight, and the mean and spread it has before a session has shown its own.
_FEATURES = {
    "dip2": (1.2, 0.21, 0.27),
    "dip5": (0.5, 0.15, 0.18),
    "turn": (0.5, 0.00, 0.27),
    "skip": (0.3, -0.37, 0.19),
    "bridge": (0.4, -0.56, 0.17),
    "detached": (0.5, 1.05, 0.33),
    "reattached": (0.8, 0.00, 0.50),
}
_SCORE_SPREAD = 2.4
_PRIOR_GAPS = 8.0  # how many gaps of a session weigh as much as those priors
_THRESHOLD = 1.0  # spreads above the mean
_BRIDGE = 3  # units on either side of a gap that may be about the same thing


def hybrid_boundaries(vectors: Series, mass: Series) -> set[int]:
    """Units that begin a topic: the gap before them scores as a local maximum, clearly above what is usual here.

    vectors: float64 [n, dim], unit rows.   mass: float64 [n], as `WindowScores.mass` of each unit's first turn, nan
    where unknown.
    """
    if len(vectors) < 2:
        return set()
    score = gap_scores(vectors, mass)
    mean, spread = _statistics(score, 0.0, _SCORE_SPREAD)
    left, right = np.append(-np.inf, score[:-1]), np.append(score[1:], -np.inf)
    peaks = (score > mean + _THRESHOLD * spread) & (score >= left) & (score >= right)
    return {int(gap) + 1 for gap in np.flatnonzero(peaks)}


def gap_scores(vectors: Series, mass: Series) -> Series:
    """float64 [n - 1]: how much the gap before unit 1, 2, ... looks like a change of topic; a weighted sum of z-scores.

    dip2, dip5: depth of the valley of similarity between the means of two (five) units before and after the gap
    turn: unit g is nearer to its successor than to its predecessor      skip: g - 1 and g + 1 are far apart
    bridge: not even the nearest pair of units across the gap is near    detached: g hardly attends to g - 1
    reattached: g + 1 attends to g more than g did to g - 1
    """
    near = _similarity(vectors, 1)
    ahead = np.append(near[1:], near[-1:])
    looking_back = np.log(mass + 1e-6)[1:]
    features = {
        "dip2": _depth(_similarity(vectors, 2)),
        "dip5": _depth(_similarity(vectors, 5)),
        "turn": ahead - near,
        "skip": -np.append((vectors[2:] * vectors[:-2]).sum(1), np.nan),
        "bridge": -_bridges(vectors),
        "detached": -looking_back,
        "reattached": np.append(looking_back[1:], np.nan) - looking_back,
    }
    total = np.zeros(len(near))
    for name, values in features.items():
        weight, prior_mean, prior_spread = _FEATURES[name]
        mean, spread = _statistics(values, prior_mean, prior_spread)
        total += weight * np.nan_to_num((values - mean) / spread)
    return total


def _statistics(values: Series, prior_mean: float, prior_spread: float) -> tuple[float, float]:
    """Mean and spread of the known values, drawn to the prior while they are few."""
    known = values[~np.isnan(values)]
    weight = len(known) + _PRIOR_GAPS
    mean = (float(known.sum()) + _PRIOR_GAPS * prior_mean) / weight
    variance = (float(((known - mean) ** 2).sum()) + _PRIOR_GAPS * prior_spread**2) / weight
    return mean, float(np.sqrt(variance))


def _similarity(vectors: Series, width: int) -> Series:
    """float64 [n - 1]: cosine of the means of up to `width` units before and after each gap."""
    sums = np.vstack([np.zeros(vectors.shape[1]), np.cumsum(vectors, axis=0)])
    n = len(vectors)
    gaps = np.arange(1, n)
    before = unit_rows(sums[gaps] - sums[np.maximum(0, gaps - width)])
    after = unit_rows(sums[np.minimum(n, gaps + width)] - sums[gaps])
    return np.asarray((before * after).sum(1))


def _bridges(vectors: Series) -> Series:
    """float64 [n - 1]: the largest cosine between one of the last units before a gap and one of the first after it."""
    n = len(vectors)
    best = np.full(n - 1, -1.0)
    for distance in range(1, min(2 * _BRIDGE, n)):
        cosine = (vectors[distance:] * vectors[:-distance]).sum(1)
        # The pair (i, i + distance) spans the gaps i ... i + distance - 1, if both ends are close enough to the gap.
        for offset in range(distance):
            if offset < _BRIDGE and distance - offset <= _BRIDGE:
                spanned = slice(offset, offset + len(cosine))
                best[spanned] = np.maximum(best[spanned], cosine)
    return best


def _depth(similarity: Series) -> Series:
    """How far the similarity climbs on both sides of each gap before it falls again."""
    left, right = similarity.copy(), similarity.copy()
    for i in range(1, len(left)):
        if similarity[i - 1] >= similarity[i]:
            left[i] = left[i - 1]
    for i in range(len(right) - 2, -1, -1):
        if similarity[i + 1] >= similarity[i]:
            right[i] = right[i + 1]
    return np.asarray(left + right - 2 * similarity)


def unit_rows(rows: npt.NDArray[np.floating]) -> Series:
    """The rows at length 1, in double precision; a zero row stays zero."""
    return np.asarray(rows / np.maximum(1e-9, np.linalg.norm(rows, axis=1, keepdims=True)), np.float64)
