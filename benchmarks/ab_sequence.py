"""The sequence of the A/B test against its promises: how often it stops wrongly, and how many bars pairing saves.

    python benchmarks/ab_sequence.py                       1,000 simulations of 20,000 bars of each kind
    python benchmarks/ab_sequence.py --simulations 100

No difference: every kind of noise is watched at every bar; `stopped` is the share of simulations that ever stopped,
`naive` that of a fixed 95 % interval which is looked at as often. A true difference: two policies size the same signals
on markets of one factor with Student's t tails, the challenger a little better. `paired` compares them on every signal,
`split` gives each half of the accounts. Exit code 1 where more than 5 % stop wrongly, or pairing saves less than ten
times.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence

import numpy as np

from himari_rl.runner.config import AbConfig
from himari_rl.runner.sequence import confidence_sequence
from himari_rl.schema import FloatArray

BARS, CHUNK = 20_000, 100
ACCOUNTS, SKILL, LONG, TOGETHER = 6, 0.3, 150_000, 20  # of the simulations with a difference
WARM = 200  # bars before the first, so that a process has forgotten its beginning
Noise = Callable[[np.random.Generator, int, int], FloatArray]


def autoregressive(phi: float, tails: float) -> Noise:
    """x_t = phi x_(t-1) + e_t with Student's t of `tails` degrees of freedom; infinite: normal."""

    def draw(rng: np.random.Generator, count: int, bars: int) -> FloatArray:
        shape = (bars + WARM, count)
        x = rng.normal(size=shape) if np.isinf(tails) else rng.standard_t(tails, shape)
        for t in range(1, len(x)):
            x[t] += phi * x[t - 1]
        return x[WARM:].T

    return draw


def clustered(rng: np.random.Generator, count: int, bars: int) -> FloatArray:
    """GARCH(1, 1) with t(4) innovations: quiet weeks and wild ones."""
    e = rng.standard_t(4.0, (bars + WARM, count)) / np.sqrt(2.0)
    variance = np.ones(count)
    for t in range(len(e)):
        e[t] *= np.sqrt(variance)
        variance = 0.02 + 0.1 * e[t] ** 2 + 0.88 * variance
    return e[WARM:].T


def lopsided(rng: np.random.Generator, count: int, bars: int) -> FloatArray:
    """Small gains and rare large losses: 2 - E^2 with E exponential, skewness -6.6."""
    return 2.0 - rng.exponential(size=(count, bars)) ** 2


NOISES: dict[str, Noise] = {
    "normal": autoregressive(0.0, np.inf),
    "t(3)": autoregressive(0.0, 3.0),
    "AR 0.5, t(3)": autoregressive(0.5, 3.0),
    "AR -0.5, t(3)": autoregressive(-0.5, 3.0),
    "AR 0.9, normal": autoregressive(0.9, np.inf),
    "AR 0.9, t(3)": autoregressive(0.9, 3.0),
    "GARCH, t(4)": clustered,
    "skewness -6.6": lopsided,
}


def stopped(noise: Noise, simulations: int, config: AbConfig, seed: int) -> tuple[float, float]:
    """Share of simulations without a difference that stop, by the sequence and by a fixed interval at every bar."""
    rng, ours, naive = np.random.default_rng(seed), 0, 0
    n = np.arange(1, BARS + 1)
    for begin in range(0, simulations, CHUNK):
        x = noise(rng, min(CHUNK, simulations - begin), BARS)
        bars, _ = confidence_sequence(x, config).first
        ours += int(np.isfinite(bars).sum())
        mean = x.cumsum(axis=1) / n
        error = np.sqrt(np.maximum((x * x).cumsum(axis=1) / n - mean * mean, 1e-300) / n)
        watched = slice(config.min_blocks * config.block_bars - 1, None)
        naive += int((np.abs(mean) > 1.96 * error)[:, watched].any(axis=1).sum())
    return ours / simulations, naive / simulations


def sized(
    rng: np.random.Generator, count: int, bars: int, accounts: int, skill: float
) -> tuple[FloatArray, FloatArray]:
    """Log growth (2, S, T) of both policies a bar: on every account, and each on its own half.

    Returns have a common factor (correlation 0.6) and t(3) tails; a persistent signal explains a thousandth of their
    variance. Both policies size alike but for noise that they share; the challenger also follows the signal.
    """
    edge, every = 0.03, np.zeros((2, count, bars))
    half = np.zeros((2, count, bars))
    market = rng.standard_t(3.0, (count, bars)) / np.sqrt(3.0)
    for account in range(accounts):
        view = autoregressive(0.9, np.inf)(rng, count, bars) * np.sqrt(1.0 - 0.81)
        own = rng.standard_t(3.0, (count, bars)) / np.sqrt(3.0)
        moved = 0.005 * (edge * view + np.sqrt(0.6) * market + np.sqrt(0.4) * own)
        shared = 0.2 * rng.normal(size=(count, bars))
        for arm, weight in enumerate((0.0, skill)):
            size = np.clip(1.0 + shared + weight * view, 0.0, 2.0)
            cost = 0.5 * 0.00002 * np.abs(np.diff(size, axis=1, prepend=1.0))
            growth = 0.5 * size * moved - cost
            every[arm] += growth / accounts
            if account % 2 == arm:
                half[arm] += growth / (accounts // 2)
    return every, half


def main(argv: Sequence[str] | None = None) -> int:
    """Both promises, as a table; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=1_000, help="of each kind of noise")
    parser.add_argument("--pairs", type=int, default=100, help="simulations of a true difference")
    given = parser.parse_args(argv)
    config = AbConfig()
    print(f"no difference: {given.simulations:,} simulations of {BARS:,} bars, alpha {config.alpha:g}")
    print(f"{'differences':<16} {'stopped':>8} {'naive':>8}")
    document: dict[str, object] = {}
    shares = {}
    for seed, (name, noise) in enumerate(NOISES.items()):
        shares[name], naive = stopped(noise, given.simulations, config, seed)
        print(f"{name:<16} {shares[name]:>8.1%} {naive:>8.1%}", flush=True)
    rng, wrong = np.random.default_rng(99), 0
    found: dict[str, list[float]] = {"paired": [], "split": []}
    for begin in range(0, given.pairs, TOGETHER):
        every, half = sized(rng, min(TOGETHER, given.pairs - begin), LONG, ACCOUNTS, SKILL)
        for name, (a, b) in {"paired": every, "split": half}.items():
            bars, sign = confidence_sequence(b - a, config).first
            found[name] += bars.tolist()
            wrong += int((sign < 0).sum())
    paired, split = (float(np.median(found[name])) for name in ("paired", "split"))
    ratio = min(split, float(LONG)) / paired
    least = "at least " if np.isinf(split) else ""
    print(f"a true difference, {given.pairs} simulations of {ACCOUNTS} accounts: bars until it is shown, median")
    print(f"paired {paired:,.0f}   split {split:,.0f}   {least}{ratio:.1f} times fewer; the wrong way round: {wrong}")
    right = max(shares.values()) <= config.alpha and ratio >= 10.0 and wrong <= 0.05 * 2 * given.pairs
    document |= {"stopped": shares, "paired_bars": paired, "split_bars": split, "ratio": ratio, "right": right}
    print(json.dumps(document))
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
