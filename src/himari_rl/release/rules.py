"""The gate's thresholds, typed. A person changes them in config/gates.yaml; a typo there is an error."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from himari_rl.config import Given, from_yaml, resolve
from himari_rl.errors import ConfigError
from himari_rl.evaluation import portfolio
from himari_rl.evaluation.verdict import COLLAPSED_SPREAD
from himari_rl.storage import read_bytes

PLACE = Path("config") / "gates.yaml"
SECTION = "gate"


@dataclass(frozen=True, kw_only=True)
class GateRules:
    """What a policy must show out of sample: the numbers specified for the product, and what gives them meaning."""

    min_sharpe: float = 1.0
    """Base and LSTM: Sharpe ratio a year."""
    min_portfolio_sharpe: float = portfolio.MIN_SHARPE
    """Multi-asset: Sharpe ratio a year."""
    min_lstm_gain: float = 0.2
    """LSTM: Sharpe ratio over that of the base champion, same bars; its paired interval must exclude 0 besides."""
    max_herfindahl: float = portfolio.MAX_HERFINDAHL
    """Multi-asset: mean Herfindahl index of the exposure."""
    min_asset_share: float = portfolio.MIN_ASSET_SHARE
    """Multi-asset: smallest mean share of the gross exposure."""
    min_deflated_sharpe: float = 0.95
    """Chance that the Sharpe ratio is above 0, given every look at this span."""
    min_over_one_liner: float = 0.0
    """Upper end of the paired 95 % interval of utility a year less the best one-liner's: below it surely worse."""
    min_retained: float = 0.5
    """Out-of-sample advantage as a share of that on training rows."""
    max_drawdown: float = 0.22
    """Deepest fall of the account, marked at closes."""
    min_spread: float = COLLAPSED_SPREAD
    """Standard deviation of the multipliers: below it the policy answers the same to every state."""
    max_saturation: float = 0.95
    """Share of the multipliers at a bound."""
    max_plausible_sharpe: float = 3.0
    """Lower end of the Sharpe ratio's 95 % interval: above it the result is too good, and a leak is looked for."""
    max_latency_ms: float = 1.0
    """Median time of one decision of the bundle on this machine."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
                raise ConfigError(f"gate rule {name} is {value!r}", "a finite number")


def load_rules(path: str | Path | None = None) -> GateRules:
    """The rules of a YAML file; without a path, config/gates.yaml where it is, else the built-in ones.

    Raises:
        ConfigError: the file is no mapping, or has a field that is no rule. StorageError: it cannot be read.
    """
    rules: GateRules = resolve({SECTION: GateRules}, rules_given(path))[SECTION]
    return rules


def rules_given(path: str | Path | None = None) -> list[Given]:
    """What that file says, rule by rule."""
    if path is None and not PLACE.is_file():
        return []
    given = from_yaml(read_bytes(path or PLACE), str(path or PLACE), SECTION)
    return [replace(one, shared=False) for one in given]  # a file of rules is for nobody else
