"""Topic boundaries exactly as published: attention peaks confirmed by similarity dips. Pure numpy.

Paper and released code disagree by one turn about where a peak cuts; `index` says whose rule holds.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

_LEVELS = tuple(round(0.20 + 0.05 * i, 2) for i in range(7))
_REACH = 3  # turns between a peak and the dip that it confirms


def attention_peaks(outer: npt.NDArray[np.floating], *, index: Literal["code", "paper"]) -> set[int]:
    """Strict inner local maxima of the sub-diagonal `outer` [n - 1], outer[k] = attention of text k + 1 to text k.

    A peak k cuts before text k (`code`) or k + 1 (`paper`). Missing values (nan) count as 0.
    """
    o = np.nan_to_num(np.asarray(outer, np.float64))
    inner = np.flatnonzero((o[1:-1] > o[:-2]) & (o[1:-1] > o[2:])) + 1 if len(o) >= 3 else np.zeros(0, int)
    return {int(k) + (index == "paper") for k in inner}


def similarity_dips(vectors: npt.NDArray[np.floating]) -> set[int]:
    """Turns t + 1 with cos(t, t + 1) below the lowest level, of .20, .25 ... .50, that any falls below."""
    near = (vectors[:-1] * vectors[1:]).sum(1)
    for level in _LEVELS:
        dips = {int(t) + 1 for t in np.flatnonzero(near < level)}
        if dips:
            return dips
    return set()


def paper_boundaries(
    outer: npt.NDArray[np.floating], vectors: npt.NDArray[np.floating], *, index: Literal["code", "paper"]
) -> set[int]:
    """Dips within three turns of a peak; without such, all dips; without any peak or any dip, none.

    outer: [n - 1], as in `attention_peaks`, over the user texts.   vectors: [n, dim], unit rows, of the turns.
    """
    if len(vectors) < 2:
        return set()
    peaks, dips = attention_peaks(outer, index=index), similarity_dips(vectors)
    if not peaks:
        return set()
    return {dip for dip in dips if any(abs(dip - peak) <= _REACH for peak in peaks)} or dips
