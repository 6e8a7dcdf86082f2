"""What each kind of agent is certified on, and the bar of each market."""

from __future__ import annotations

from himari_rl.agents.kinds import config_type
from himari_rl.evaluation.certify import Bar, Budget, Plan

BASE = {
    "M1": Bar(median=0.99, worst=0.98),
    "M2": Bar(median=0.97, worst=0.93, turnover=(0.015, 0.035)),
    "M2h": Bar(median=0.90, over_constant=True),
    "M4": Bar(median=0.97, worst=0.94),
    "M4b": Bar(median=0.97, worst=0.94),
    "M4r": Bar(median=0.97, worst=0.94),
    "M2-one-history": Bar(median=0.95),
    "M4-one-history": Bar(median=0.93),
    "M6": Bar(aside=True),
    "M2-shuffled": Bar(nothing=True),
    "M4-shuffled": Bar(nothing=True),
}
LSTM = {
    "M3z": Bar(median=0.95, worst=0.90),
    "M3": Bar(median=0.93),
    "M1": Bar(median=0.97),
    "M2": Bar(median=0.95),
    "M4": Bar(median=0.95),
}
MULTI = {
    "M5": Bar(median=0.97),
    "M5-corner": Bar(median=0.97),
    "M5c": Bar(median=0.97),
    "M5b": Bar(median=0.90),
}
BARS = {"base": BASE, "lstm": LSTM, "multi": MULTI}


def plan_for(kind: str, bars: int) -> Plan:
    """The default recipe of a kind with this many bars of training."""
    return Plan(config=config_type(kind)(), budget=Budget(bars=bars), bars=BARS[kind])
