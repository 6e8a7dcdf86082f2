"""M7: nothing is learned from a leak; it has to be caught before anything is trained on it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from himari_rl.certification.generators import Trap
from himari_rl.certification.markets import market_named
from himari_rl.certification.observe import to_bars
from himari_rl.data.leaks import suspected_leaks


@dataclass(frozen=True)
class Trapped:
    """M7: whether a leak was caught before anything was trained on it."""

    market: str
    passed: bool
    reason: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def trap_certificates(seed: int = 0, rows: int = 20_000) -> list[Trapped]:
    """M7: a supplied column that leaks is reported at every rho, and M2's honest predictor is not."""
    found = []
    trap = market_named("M7")
    assert isinstance(trap, Trap)
    for rho in (0.05, 0.1, 0.3, 1.0):
        leaky = replace(trap, rho=rho)
        bars = to_bars(leaky, leaky.simulate(1, rows, np.random.default_rng([seed, 3])))[0]
        suspects = suspected_leaks(bars)
        best = max((abs(s.t) for s in suspects), default=0.0)
        reason = f"supplied column with rho {rho:g}: " + (f"caught, t = {best:.0f}" if suspects else "not caught")
        found.append(Trapped(f"M7 rho {rho:g}", bool(suspects), reason))
    honest = market_named("M2")
    bars = to_bars(honest, honest.simulate(1, rows, np.random.default_rng([seed, 4])))[0]
    suspects = suspected_leaks(bars)
    found.append(Trapped("M2 honest", not suspects, "honest z: " + ("flagged" if suspects else "not flagged")))
    return found
