"""Somebody else's module: a policy that learns, a rule, and what may be wrong with such code."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

SOURCE = '''"""Sizes by what the signal's confidence has been worth, and moves only where that is worth the fee."""

import numpy as np

from himari_rl.features.encoder import StateEncoder
from himari_rl.policy.bands import Bands


def told(confidence):
    return np.clip(np.tan(np.clip((confidence - 0.5) * 3.0, -1.5, 1.5)), -3.0, 3.0)


class Banded:
    def __init__(self, slope, band):
        self.slope, self.band = slope, band

    def decide_batch(self, states, memory=None):
        held = 2.0 * states[:, 8] * states[:, 9] * (states[:, 3] - states[:, 1] + states[:, 2] * states[:, 9])
        wanted = self.slope * told(states[:, 0])
        return np.clip(np.clip(held, wanted - self.band, wanted + self.band), 0.0, 2.0)[:, None], memory


    def bands(self, rows):
        """The same for a whole history at once, at any position: the backtest need not ask bar by bar."""
        wanted = self.slope * told(rows[:, 0])
        low, high = (np.clip(wanted + side * self.band, 0.0, 2.0).astype(np.float32) for side in (-1.0, 1.0))
        return Bands(low[:, None, None], high[:, None, None], (rows[:, 3] - rows[:, 1])[:, None], rows[:, 2:3])


def learns(train, seed):
    rows = StateEncoder(train.symbols).market_rows(train)
    earned = train.open[2:] / train.open[1:-1] - 1.0
    worth = np.polyfit(told(rows[:-2, 0]), earned, 1)[0] * (1.0 + 0.01 * seed)
    return Banded(float(worth / (7.7 * earned.var() * 0.5)), 0.8)


class BandedOwn(Banded):
    """The same by the first of its own features, which stands behind the sixteen numbers."""

    def _swapped(self, rows):
        return np.column_stack([rows[:, 16], rows[:, 1:16]])

    def decide_batch(self, states, memory=None):
        return super().decide_batch(self._swapped(states), memory)

    def bands(self, rows):
        return super().bands(self._swapped(rows))


def learns_own(train, seed):
    """By the confidence or by its own feature, whichever has been worth more."""
    rows = StateEncoder.of(train).market_rows(train)
    earned = train.open[2:] / train.open[1:-1] - 1.0
    seen = {column: told(rows[:-2, column]) for column in (0, 16)}
    column = max(seen, key=lambda each: abs(np.corrcoef(seen[each], earned)[0, 1]))
    worth = np.polyfit(seen[column], earned, 1)[0]
    kind = BandedOwn if column == 16 else Banded
    return kind(float(worth / (7.7 * earned.var() * 0.5)), 0.8)


def by_x(states):
    return states[:, 16]


def by_x_of_two(states):
    """Two assets, the first own feature of each: behind 34 numbers."""
    return np.abs(states[:, [34, 35]])


def hidden(train, seed):
    inner = learns(train, seed)

    class Local:
        def decide_batch(self, states, memory=None):
            return inner.decide_batch(states, memory)

    return Local()


def forgets_its_seed(train, seed):
    slope = float(np.random.default_rng().uniform(0.5, 2.0))

    class Local:
        def decide_batch(self, states, memory=None):
            return np.clip(slope * states[:, :1], 0.0, 2.0), memory

    return Local()


def answers_three(train, seed):
    class Local:
        def decide_batch(self, states, memory=None):
            return np.full((len(states), 1), 3.0), memory

    return Local()


def breaks(train, seed):
    raise ValueError("no rows\\nat all")


def no_policy(train, seed):
    return 1.0


class Kept:
    """Keeps arrays of its own."""

    def restore(self, arrays):
        return Sized(arrays["size"])

    def __call__(self, train, seed):
        return Sized(np.array([0.5 + 0.1 * seed]))


class Sized:
    def __init__(self, size):
        self.size = size

    def arrays(self):
        return {"size": self.size}

    def decide_batch(self, states, memory=None):
        return np.full((len(states), 1), float(self.size[0])), memory


KEPT = Kept()


def remembers(train, seed):
    class Local:
        def decide_batch(self, states, memory=None):
            memory = 0 if memory is None else memory + 1
            return np.full((len(states), 1), 0.5 + 0.5 * (memory % 2)), memory

    return Local()


def steady(states):
    """15 % volatility a year, of hourly bars: state 14 is the volatility of a bar / 0.1; the base position is half."""
    return 0.15 / (states[:, 13] * 0.1 * np.sqrt(8760.0) + 1e-9) / 0.5
'''


def stranger(folder: Path, name: str) -> ModuleType:
    """The module, written to a folder that is on the path and imported from there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(SOURCE)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return import_module(name)
