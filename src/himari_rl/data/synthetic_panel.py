"""Several synthetic symbols whose returns really have the correlation asked for, always labelled synthetic.

Every symbol has the market of synthetic.py. They share its regimes, the clustering of its volatility and the moments of
its jumps, and their shocks are correlated: with volatilities of their own, the correlation of the returns would be
smaller than that of the shocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from himari_rl.data import synthetic
from himari_rl.data.panel import Panel, check_symbols, panel_of
from himari_rl.errors import ConfigError
from himari_rl.schema import HOUR_MS, YEAR_MS, Bars, FloatArray


def synthetic_panel(
    symbols: Sequence[str],
    rows: int,
    seed: int,
    *,
    correlation: float | FloatArray = 0.6,
    annual_volatility: float | Sequence[float] = 0.6,
    edge: float = 1.0,
    interval_ms: int = HOUR_MS,
    start_ms: int = synthetic.START_MS,
    start_price: float = 10_000.0,
    zero_volume: float = 0.0003,
) -> Panel:
    """Aligned bars of `rows` times; the same seed gives the same panel.

    Args:
        correlation: of the returns, one number for all pairs or an (A, A) matrix.
        annual_volatility: one number, or one for each symbol.
        edge: multiplies the regimes' drifts; 0 leaves nothing to learn.
        zero_volume: share of each symbol's bars that are placeholders.

    Raises:
        ConfigError: fewer than 2 or more than MOST_SYMBOLS symbols, or a matrix that is no correlation.
    """
    check_symbols(symbols)
    if rows < 1 or not 0.0 <= zero_volume < 1.0 or np.min(annual_volatility) <= 0.0:
        raise ConfigError(f"{rows} rows with volatility {annual_volatility}", "positive numbers")
    count = len(symbols)
    root = correlation_root(correlation, count)
    rng = np.random.default_rng(seed)
    hours = interval_ms / HOUR_MS
    regime = synthetic.regimes(rows, hours, rng)
    bar = np.sqrt(interval_ms / YEAR_MS)
    shape = bar * synthetic.VOLATILITY[regime] * synthetic.clustering(rows, hours, rng)
    sigma = shape[:, None] * np.broadcast_to(annual_volatility, (count,))
    shocks = rng.standard_normal((rows, count)) @ root.T
    jumps = synthetic.JUMP_MEAN + synthetic.JUMP_SPREAD * (rng.standard_normal((rows, count)) @ root.T)
    jumping = rng.random(rows) < synthetic.JUMPS_PER_HOUR * hours
    drift = edge * synthetic.DRIFT_PER_YEAR[regime] * interval_ms / YEAR_MS
    move = drift[:, None] - sigma**2 / 2.0 + sigma * (shocks + np.where(jumping[:, None], jumps, 0.0))
    empty = rng.random((rows, count)) < zero_volume
    found = []
    for a, symbol in enumerate(symbols):
        moved = np.where(empty[:, a], 0.0, move[:, a])
        columns = synthetic.market(moved, sigma[:, a], start_price, start_ms, interval_ms, empty[:, a], rng)
        found.append(
            Bars(
                symbol=symbol,
                timestamp=start_ms + interval_ms * np.arange(rows, dtype=np.int64),
                **columns,
                interval_ms=interval_ms,
                source=f"synthetic {symbol} (seed {seed})",
                synthetic=True,
            )
        )
    return panel_of(found)


def correlation_root(correlation: float | FloatArray, count: int) -> FloatArray:
    """(A, A) the symmetric R with R R' the correlation matrix asked for.

    The symmetric root is the one that is unique: equal correlations give equal eigenvalues, whose eigenvectors
    every LAPACK chooses as it likes.

    Raises:
        ConfigError: not symmetric with ones on the diagonal, or not positive semi-definite.
    """
    matrix = np.array(correlation, dtype=np.float64)
    if matrix.ndim == 0:
        matrix = np.where(np.eye(count, dtype=bool), 1.0, matrix)
    sound = matrix.shape == (count, count) and np.allclose(matrix, matrix.T) and np.allclose(np.diag(matrix), 1.0)
    if sound:
        values, vectors = np.linalg.eigh(matrix)
        if values.min() > -1e-9:
            roots = np.sqrt(np.where(values > 1e-9, values, 0.0))  # the sign of a zero is noise too
            root: FloatArray = (vectors * roots) @ vectors.T
            return root
    raise ConfigError(
        f"{np.array(correlation).tolist()} as the correlation of {count} symbols",
        "a positive semi-definite matrix with ones on its diagonal",
        f"one number for all pairs is at least {-1.0 / (count - 1):.3f}",
    )
