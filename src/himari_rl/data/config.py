"""What somebody accepts of the data, in the knowledge of it."""

from __future__ import annotations

from dataclasses import dataclass

from himari_rl.errors import ConfigError

LOW_COVERAGE, CONSTANT, FUNDING, REPEATED, BREAKS = (
    "low-coverage",
    "constant-columns",
    "funding-unit",
    "funding-repeated",
    "price-breaks",
)
FINDINGS = (LOW_COVERAGE, CONSTANT, FUNDING, REPEATED, BREAKS)
"""Every finding that stops training and judging until somebody accepts it; data/facts.py makes them."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is known of the data and accepted."""

    accept: tuple[str, ...] = ()
    """Findings of `himari data audit` to go on with, by name: low-coverage, constant-columns, funding-unit,
    funding-repeated, price-breaks. What was accepted is recorded with the run."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.accept if name not in FINDINGS]
        if unknown:
            raise ConfigError(f"no finding is called {unknown[0]!r}", f"one of {', '.join(FINDINGS)}")
