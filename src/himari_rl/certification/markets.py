"""The markets by name, and other numbers of them: "M2:sigma=0.04,cost=0.001", "M4:sigmas=0.05:0.1:0.2", "M5x8"."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import Any

from himari_rl.certification.generators import (
    ConstantEdge,
    HiddenRegime,
    Predictable,
    Trap,
    VolatilityRegimes,
)
from himari_rl.certification.hourly import UTILITY, HiddenVolatility, RareEdge, TailEdge, visible_weather
from himari_rl.certification.law import KnownMarket
from himari_rl.certification.portfolios import PortfolioMarket, alike
from himari_rl.data.panel import MOST_SYMBOLS
from himari_rl.errors import ConfigError


def _registry() -> dict[str, KnownMarket]:
    m2, m4 = Predictable(name="M2"), VolatilityRegimes(name="M4")
    realistic: dict[str, Any] = {"sigmas": (0.004, 0.016), "mus": (1.92e-4, 1.92e-4), "risk_aversion": 12.5}
    every: list[KnownMarket] = [
        ConstantEdge(name="M1", cost=0.0),
        ConstantEdge(name="M1c"),
        m2,
        Predictable(name="M2h", beta=0.0025, phi=0.9, cost=0.003),
        HiddenRegime(name="M3"),
        HiddenRegime(name="M3z", cost=0.0, account_visible=False),
        m4,
        VolatilityRegimes(name="M4b", mus=(0.002, 0.008)),
        VolatilityRegimes(name="M4r", cost=1.2e-4, **realistic),
        VolatilityRegimes(name="M4r-costly", cost=0.0015, **realistic),
        PortfolioMarket(name="M5"),
        PortfolioMarket(name="M5-corner", mus=(0.00205, 0.00145, 0.00099)),
        PortfolioMarket(name="M5c", mus=(0.00285, 0.00459, 0.00429)),
        PortfolioMarket(name="M5b", betas=(0.0012, 0.0016, 0.0010)),
        Predictable(name="M6", sigma=0.02, mu=0.0, beta=0.0),
        Trap(name="M7"),
        replace(m2, name="M2-shuffled", shuffled=True),
        replace(m4, name="M4-shuffled", shuffled=True),
        VolatilityRegimes(name="M4-three", sigmas=(0.05, 0.10, 0.20)),
        alike("M5x8", 8),
        RareEdge(name="R1"),
        RareEdge(name="R1-low", place="bottom"),
        RareEdge(name="R1-ends", place="ends"),
        RareEdge(name="R1-shuffled", shuffled=True),
        TailEdge(name="R1-tail"),
        HiddenVolatility(name="R2"),
        visible_weather("R2-visible"),
        HiddenVolatility(name="L0", mu=0.0),
        Predictable(name="planted", sigma=0.006, mu=0.0, beta=6e-4, risk_aversion=UTILITY, as_bars=True),
    ]
    return {market.name: market for market in every}


MARKETS = _registry()
_NUMBERS = ("float", "float | None", "tuple[float, float]", "tuple[float, ...]")  # the types that a name can set
_MANY = ("tuple[float, ...]",)  # as many as somebody likes
_NUMBER_OF_ASSETS = re.compile(r"M5x([1-9][0-9]*)")
_RANGES = {  # what a bar of a market may do; beyond them a grid of states or exposures no longer holds the optimum
    "cost": (0.0, 0.1),
    "risk_aversion": (1.0, 1000.0),
    "jump": (1e-3, 0.99),
    "up": (0.0, 1.0),
    "sigma": (1e-3, 1.0),
    "sigmas": (1e-3, 1.0),
    "mu": (-0.1, 0.1),
    "mus": (-0.1, 0.1),
    "beta": (-0.1, 0.1),
    "betas": (-0.1, 0.1),
    "drift": (0.0, 0.1),
    "switch": (1e-5, 1.0),
    "phi": (0.0, 0.9999),
    "rho": (-1.0, 1.0),
    "correlations": (-0.99, 0.99),
    "edge": (0.0, 10.0),
    "share": (1e-4, 0.5),
    "length": (1.0, 10_000.0),
}


def market_named(name: str) -> KnownMarket:
    """A market of the table, M5 with any number of assets ("M5x8"), or one with other numbers ("M4:sigmas=0.06:0.15").

    Several numbers stand as 0.06:0.15; where a market takes any number of them (the regimes of M4, the assets of M5),
    `sigmas` says how many, and one number of another field stands for all.

    Raises:
        ConfigError: no such market, or a number that it does not have or cannot take.
    """
    known, _, settings = name.partition(":")
    assets = _NUMBER_OF_ASSETS.fullmatch(known)
    if assets is not None and not 2 <= int(assets[1]) <= MOST_SYMBOLS:
        raise ConfigError(f"{assets[1]} assets in {name!r}", f"M5x2 to M5x{MOST_SYMBOLS}")
    if assets is None and known not in MARKETS:
        raise ConfigError(f"no market {known!r}", f"one of {', '.join(MARKETS)}")
    market = alike(known, int(assets[1])) if assets is not None else MARKETS[known]
    if ":" not in name:
        return market
    return replace(market, name=name, **dict(_setting(market, part) for part in settings.split(",")))


def _setting(market: KnownMarket, text: str) -> tuple[str, Any]:
    """One number of a market, or one tuple of them, from `field=value` or `field=value:value`."""
    numbers = {f.name: f.type for f in fields(market) if f.type in _NUMBERS}
    name, _, value = text.partition("=")
    if name not in numbers:
        raise ConfigError(f"{text!r} of {market.name}", f"one of {', '.join(numbers)}, as field=number")
    try:
        found = tuple(float(part) for part in value.split(":"))
    except ValueError as error:
        raise ConfigError(f"{text!r} of {market.name}", "numbers, several as 0.05:0.20") from error
    low, high = _RANGES[name]
    several = isinstance(getattr(market, name), tuple)
    fixed = None if numbers[name] in _MANY else len(getattr(market, name)) if several else 1
    if fixed not in (None, len(found)) or not all(low <= part <= high for part in found):
        many = "numbers" if fixed is None else f"{fixed} number(s)"
        raise ConfigError(f"{text!r} of {market.name}", f"{many} from {low:g} to {high:g}")
    return name, found if several else found[0]
