"""Do these columns, in this order, hold prices? The question that tells Coinbase's order from ccxt's.

fitting(columns, names)   whether every open and close lies within low and high under these names
swapped(open, ...)        the names that would fit better, where most rows are broken
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np

from himari_rl.data.cells import numbers
from himari_rl.schema import PRICES, BoolArray, FloatArray

SLACK_ULP = 4  # an adjusted price is a product: its last bits are noise
_ENOUGH = 0.99  # of the rows: a broken row is the business of checks.py, not of the order
_CONTINUOUS = 0.1  # of a bar's own move: where markets never close, an open is near the close before it


def above(value: FloatArray, bound: FloatArray) -> BoolArray:
    """(T,) where value > bound by more than rounding."""
    with np.errstate(invalid="ignore"):
        over = np.asarray(value > bound, np.bool_)
        if over.any():  # rounding is looked at only there
            over[over] = value[over] > bound[over] + SLACK_ULP * np.spacing(np.abs(bound[over]))
    return over


def broken(opened: FloatArray, high: FloatArray, low: FloatArray, close: FloatArray) -> BoolArray:
    """(T,) rows with high below low, or open or close outside them, by more than rounding."""
    outside = above(low, high)
    for value in (opened, close):
        outside = outside | above(value, high) | above(low, value)
    return outside


def fitting(columns: Sequence[Any], names: Sequence[str]) -> bool:
    """Whether columns of pyarrow hold what these names say in nearly every row."""
    prices = [numbers(columns[names.index(name)], {})[0] for name in PRICES]
    finite = np.isfinite(prices).all(axis=0)
    return bool(finite.any() and (~broken(*prices))[finite].mean() >= _ENOUGH)


def swapped(prices: dict[str, FloatArray]) -> dict[str, str] | None:
    """{present name: the name that fits}, where one exchange of names mends nearly all rows; else None.

    Which of two inner columns is the open is told by the market's continuity, where it has any.
    """
    fits = []
    for order in permutations(PRICES):
        renamed = dict(zip(PRICES, order, strict=True))
        by_name = {renamed[name]: prices[name] for name in PRICES}
        if (~broken(*(by_name[name] for name in PRICES))).mean() >= _ENOUGH:
            fits.append((_jump(by_name["open"], by_name["close"]), renamed))
    return min(fits, key=lambda fit: fit[0])[1] if fits else None


def backwards(opened: FloatArray, close: FloatArray) -> bool:
    """Whether each open is the next row's close: open and close, or the rows, stand the wrong way round."""
    if len(opened) < 10:
        return False
    here, there = _jump(opened, close), _jump(close, opened)
    moves = float(np.median(np.abs(close - opened)))
    return moves > 0.0 and there <= 0.01 * moves and here > _CONTINUOUS * moves


def _jump(opened: FloatArray, close: FloatArray) -> float:
    return float(np.median(np.abs(opened[1:] - close[:-1]))) if len(opened) > 1 else 0.0
