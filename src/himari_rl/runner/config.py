"""What the runner is asked for. Fees and limits are those of the policy's own ledger, unless they are set here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from himari_rl.config import SECRET, require_ranges
from himari_rl.errors import ConfigError
from himari_rl.schema import MAX_MULTIPLIER

INF = float("inf")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How signals become decisions.

    Raises:
        ConfigError: a number that no runner can use.
    """

    enable_rl: bool = True
    """False asks no policy: every decision is `fallback_multiplier`, with the cause `disabled`."""
    external_code: bool = False
    """Imports the code that a bundle of kind external names, if its hash is the judged one; else it is refused."""
    rl_timeout_ms: float = 150.0
    """From question to answer, connect, read and retries together; after that it is a fallback."""
    fallback_on_timeout: bool = True
    """A question without an answer is `fallback_multiplier`; False stands aside instead: multiplier 0."""
    fallback_multiplier: float = 1.0
    """What a signal is sized with where the policy has no answer."""
    log_rl_predictions: bool = True
    """The state and the policy's own answer stand in the journal, which `himari replay` needs to compare them."""
    clock: Literal["wall", "bar"] = "wall"
    """What a bar's age is held against: this machine's clock, or (bar) none, for a recorded stream at speed."""
    max_bar_age_s: float = 0.0
    """A bar that closed longer ago is stale; 0: one interval of the policy's bars."""
    warm_bars: int = 20
    """Earlier bars from which a policy is asked; before that the cause is `few_bars`."""
    breaker_failures: int = 5
    """Failures in a row after which a server is not asked for a while."""
    breaker_open_s: float = 5.0
    """Seconds until one call is let through to see whether the server is back."""
    retries: int = 1
    """Connections that broke off are tried again so often, within the same deadline."""
    versions: tuple[str, ...] = ()
    """Model versions that may answer. Empty: those that /ready names for the symbols and the interval."""
    features: tuple[str, ...] = ()
    """Own features that signals may carry beside those that the policies here read, as for a challenger of an A/B test
    in the shadow. They go into the journal; any other name refuses the signal."""
    keep_warm_s: float = 0.0
    """Seconds between two questions that only keep a scale-to-zero server warm; 0: none."""
    api_key: str = field(default="", metadata=SECRET)
    """Shown to the server as x-api-key."""
    audience: str = ""
    """Google-signed ID tokens for this audience are shown to the server instead."""

    def __post_init__(self) -> None:
        require_ranges(
            self,
            {
                "rl_timeout_ms": (1.0, 60_000.0),
                "fallback_multiplier": (0.0, MAX_MULTIPLIER),
                "max_bar_age_s": (0.0, INF),
                "warm_bars": (0, 100_000),
                "breaker_failures": (1, 1_000_000),
                "breaker_open_s": (0.0, 86_400.0),
                "retries": (0, 10),
                "keep_warm_s": (0.0, 86_400.0),
            },
        )


@dataclass(frozen=True, kw_only=True)
class PortfolioConfig:
    """Whose money it is. What is None is as the policy's ledger says.

    Raises:
        ConfigError: no equity.
    """

    account: Literal["paper", "given"] = "paper"
    """`paper` keeps an account on the ledger; `given` takes the account of every signal."""
    equity_usd: float = 10_000.0
    """What each paper account starts with."""
    max_position_pct: float | None = None
    """Base position as a fraction of equity."""
    commission_rate: float | None = None
    """Exchange fee per unit of traded notional."""
    slippage_bps: float | None = None
    """Slippage per unit of traded notional, basis points."""
    allow_short: bool | None = None
    """True lets SELL open a short; False makes it stand aside."""

    def __post_init__(self) -> None:
        if not 0.0 < self.equity_usd < INF:
            raise ConfigError(f"portfolio.equity_usd {self.equity_usd}", "above 0", "say what the account starts with")


@dataclass(frozen=True, kw_only=True)
class HaltConfig:
    """The kill switch: what halts an account, what its decisions are then, and what lets it go on.

    Raises:
        ConfigError: a number that no rule can use.
    """

    multiplier: float = 1.0
    """What a halted account's signals are sized with: 1.0 is Layer 2 alone, 0 stands aside."""
    daily_loss: float = 0.04
    """Loss since the start of the UTC day; inf: no such rule."""
    drawdown: float = 0.25
    """Loss from the highest equity so far; inf: no such rule."""
    volatility: float = 0.08
    """Standard deviation of the last 20 bar returns, of any symbol; inf: no such rule."""
    stale_bars: float = 3.0
    """The newest bar that could be used closed more than so many intervals ago; inf: no such rule."""
    drift_bars: int = 1
    """Bars in a row on which a feature, a multiplier or the confidence is not as in training; 0: no such rule."""
    resume: tuple[str, ...] = ("daily_loss", "volatility", "stale", "drift")
    """Causes that end by their own rule: daily_loss with the next UTC day, volatility below four fifths of its limit,
    stale with `fresh_bars`, drift with as many bars like training's. Every other halt ends by hand alone."""
    fresh_bars: int = 3
    """Bars in a row, none missing, that end a halt for stale data; and, none strayed, one for drift."""

    def __post_init__(self) -> None:
        ranges = dict.fromkeys(("daily_loss", "drawdown", "volatility", "stale_bars"), (0.0, INF))
        require_ranges(self, ranges | {"fresh_bars": (1, 1_000_000), "drift_bars": (0, 1_000_000)})
        if self.multiplier not in (0.0, 1.0):
            raise ConfigError(f"halt.multiplier {self.multiplier}", "1.0 or 0", "1.0 is Layer 2 alone, 0 stands aside")
        if unknown := sorted(set(self.resume) - set(RULES)):
            raise ConfigError(f"halt.resume {', '.join(unknown)}", f"of {', '.join(RULES)}", "drawdown ends by hand")


@dataclass(frozen=True, kw_only=True)
class AbConfig:
    """A live comparison of two policies: who sizes what, and when it has been shown which one is better.

    Raises:
        ConfigError: a number that no comparison can use.
    """

    mode: Literal["shadow", "split"] = "shadow"
    """`shadow`: both size every signal, the challenger on paper; `split`: each has accounts of its own, for real."""
    share: float = 0.5
    """Split: the challenger's share of all accounts (strategy and symbols)."""
    seed: int = 0
    """Split: which accounts those are; the same seed always gives an account to the same policy."""
    measure: Literal["growth", "utility"] = "growth"
    """Compared is log growth after costs, or that less half of risk_aversion times the squared return."""
    risk_aversion: float = 6.7
    """Of the utility; as in the gate."""
    alpha: float = 0.05
    """Share of experiments without a difference that may stop, however often somebody looks."""
    block_bars: int = 24
    """Bars that are averaged before they are judged: as long as what the differences remember."""
    min_blocks: int = 30
    """Blocks before the first look; before that the variance is not known."""
    horizon_bars: int = 8760
    """Bars at which the interval is to be narrowest."""
    max_bars: int = 0
    """Bars after which the experiment ends without a winner; 0: it goes on."""

    def __post_init__(self) -> None:
        require_ranges(
            self,
            {
                "share": (0.0, 1.0),
                "seed": (0, 2**63),
                "risk_aversion": (0.0, 1000.0),
                "alpha": (1e-9, 0.5),
                "block_bars": (1, 100_000),
                "min_blocks": (10, 100_000),
                "horizon_bars": (1, 100_000_000),
                "max_bars": (0, 1_000_000_000),
            },
        )


RULES = ("daily_loss", "volatility", "stale", "drift")
"""Halts that may end by a rule."""
