"""Attempts at a market, without training."""

from __future__ import annotations

from himari_rl.certification.attempts import Attempt
from himari_rl.certification.grading import Grade


def made_up(market: str, shares: list[float], **fields: float) -> tuple[Attempt, ...]:
    numbers = {
        "share_error": 0.0, "share_over_constant": 0.0, "over_constant_error": 0.01, "growth": 0.0, "optimum": 1.0,
        "turnover": 0.02, "optimal_turnover": 0.02, "exposure": 0.0, "gross_max": 1.0, "weights": (0.0,),
    } | fields  # fmt: skip
    grades = [Grade(market=market, share=share, **numbers) for share in shares]
    return tuple(Attempt(market, i, g, 1.0, 1000) for i, g in enumerate(grades))
