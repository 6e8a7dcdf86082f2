"""Each rule of the kill switch trips in a stream made for it, holds through restarts and ends only as it is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.bundle import make_bundle
from helpers.stream import INF, runner_of
from himari_rl.cli import main
from himari_rl.errors import ConfigError
from himari_rl.journal.entry import HALT, RESUME
from himari_rl.journal.store import DecisionJournal, open_journal
from himari_rl.policy.risk import RiskLimits
from himari_rl.runner.config import HaltConfig, RunConfig
from himari_rl.runner.halt import by_hand
from himari_rl.runner.step import Runner
from himari_rl.schema import DAY_MS, HOUR_MS

MIDNIGHT = 1_704_067_200_000
OFF = {"daily_loss": INF, "drawdown": INF, "volatility": INF, "stale_bars": INF}
FREE = {name: getattr(RiskLimits.off(), name) for name in vars(RiskLimits())}


def signal(hour: float, close: float, opened: float = 100.0) -> str:
    bar = {"timestamp": MIDNIGHT + round(hour * HOUR_MS), "open": opened, "close": close}
    says = {"action": "BUY", "confidence": 0.9, "tier": "T1", "cascade_risk": 0.0}
    return json.dumps({"strategy": "s", "symbol": "BTC-USDT", "bar": bar, "signal": says})


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[DecisionJournal]:
    with open_journal(tmp_path / "j.sqlite") as made:
        yield made


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle"), hidden=(8,))


@pytest.fixture
def start(journal: DecisionJournal, bundle: Path) -> Callable[..., Runner]:
    """A runner on the same journal, as after a restart; Layer 2 alone decides, under no limit of the ledger."""

    def runner(clock: Any = None, **rules: Any) -> Runner:
        run = RunConfig(clock="wall" if clock else "bar", enable_rl=False)
        more = {"clock": clock} if clock else {}
        return runner_of(journal, bundle, run=run, halt=HaltConfig(**OFF | rules), risk=FREE, **more)

    return runner


def causes(runner: Runner) -> list[str]:
    return [halt.cause for halt in runner.switch.active]


def flow(runner: Runner, prices: list[float], first: int = 0) -> list[str]:
    """Cause of each decision; bar k opens at the close before it."""
    found = []
    for k, close in enumerate(prices):
        opened = prices[k - 1] if k else close
        [told] = runner.handle([signal(first + k, close, opened)])
        found.append(told["cause"])
    return found


def test_a_daily_loss_halts_until_the_next_utc_day(start: Callable[..., Runner], journal: DecisionJournal) -> None:
    """Half of equity is held from hour 1: a fall of 10 % at hour 3 loses 5 % of the day."""
    rules = {"daily_loss": 0.04, "multiplier": 0.0}
    told = flow(start(**rules), [100, 100, 100, 90, 90, 90])
    assert told == ["disabled"] * 3 + ["halted"] * 3
    assert flow(start(**rules), [90.0] * 18, first=6) == ["halted"] * 18  # another process; to the day's last bar
    again = start(**rules)
    assert causes(again) == ["daily_loss"]
    assert flow(again, [90.0], first=24) == ["disabled"]
    assert [row.entry.said["why"] for row in journal.entries(kinds=[RESUME])] == ["another UTC day has begun"]


def test_a_drawdown_halts_until_somebody_resumes(
    start: Callable[..., Runner], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """4 % of price are lost each hour, on half of equity and from hour 1: by hour 3 it is 6 %."""
    rules = {"drawdown": 0.05}
    told = flow(start(**rules), [100.0 * 0.96**k for k in range(8)])
    assert told == ["disabled"] * 3 + ["halted"] * 5
    assert flow(start(**rules), [60.0], first=60) == ["halted"]  # days later: no rule ends it
    assert main(["run", "resume", "--journal", str(tmp_path / "j.sqlite"), "--why", ""]) == 2
    assert "without a reason" in capsys.readouterr().err
    assert main(["run", "resume", "--journal", str(tmp_path / "j.sqlite"), "--why", "positions checked"]) == 0
    assert "nothing is halted" in capsys.readouterr().out
    assert flow(start(drawdown=0.9), [60.0], first=61) == ["disabled"]


def test_volatility_halts_until_it_is_calmer(start: Callable[..., Runner]) -> None:
    """Closes that alternate by 5 % have a deviation of 5 %; 20 still bars have none."""
    wild = [100.0 * (1.05 if k % 2 else 1.0) for k in range(24)]
    runner = start(volatility=0.04)
    told = flow(runner, wild)
    assert told[19] == "disabled"
    assert told[-1] == "halted"
    calm = flow(runner, [wild[-1]] * 24, first=24)
    assert calm[0] == "halted"
    assert calm[-1] == "disabled"


def test_missing_bars_halt_until_bars_come_in_a_row(start: Callable[..., Runner], journal: DecisionJournal) -> None:
    rules = {"stale_bars": 3.0, "fresh_bars": 3}
    assert flow(start(**rules), [100.0] * 3) == ["disabled"] * 3
    assert flow(start(**rules), [100.0], first=5) == ["disabled"]  # two are missing
    assert flow(start(**rules), [100.0], first=9) == ["halted"]  # three
    assert flow(start(**rules), [100.0] * 2, first=10) == ["halted"] * 2
    assert flow(start(**rules), [100.0], first=12) == ["disabled"]
    [halt] = [row.entry for row in journal.entries(kinds=[HALT])]
    assert halt.said["why"] == "3 bars are missing; the limit is 3"


def test_a_feed_that_dies_halts_without_any_line(start: Callable[..., Runner]) -> None:
    now = [(MIDNIGHT + HOUR_MS) / 1000.0]
    runner = start(clock=lambda: now[0], stale_bars=3.0)
    [told] = runner.handle([signal(0, 100.0)])
    assert told["cause"] == "disabled"
    now[0] += 3 * 3600 - 1
    runner.idle()
    assert causes(runner) == []
    now[0] += 1
    runner.idle()
    runner.idle()
    assert causes(runner) == ["stale"]
    [stale] = runner.handle([signal(1, 100.0)])
    assert (stale["rejected"], stale["multiplier"]) == ("stale", 1.0)


@pytest.mark.parametrize("multiplier", [0.0, 1.0])
def test_a_hand_halts_a_runner_that_runs_with_the_reason(
    start: Callable[..., Runner], tmp_path: Path, multiplier: float
) -> None:
    runner = start(multiplier=multiplier)
    flow(runner, [100.0] * 2)
    place = str(tmp_path / "j.sqlite")
    assert main(["run", "halt", "--journal", place, "--why", "the exchange is down"]) == 0
    [told] = runner.handle([signal(2, 100.0)])
    assert (told["multiplier"], told["cause"], told["source"]) == (multiplier, "halted", "fallback")
    assert told["size_usd"] == pytest.approx(0.5 * multiplier * told["equity_usd"])
    assert told["reasons"] == ["halted: hand: the exchange is down"]
    [refused] = runner.handle(["{"])
    assert refused["multiplier"] == multiplier  # also where the signal is none
    assert flow(start(multiplier=multiplier), [100.0], first=int(DAY_MS / HOUR_MS)) == ["halted"]
    assert main(["run", "resume", "--journal", place, "--why", "it is back"]) == 0
    assert flow(start(multiplier=multiplier), [100.0], first=25) == ["disabled"]


def test_rules_that_are_off_never_trip(start: Callable[..., Runner]) -> None:
    assert set(flow(start(), [100.0 * 0.9**k for k in range(30)])) == {"disabled"}


def test_a_rule_that_may_not_end_a_halt_does_not(start: Callable[..., Runner]) -> None:
    rules = {"daily_loss": 0.04, "resume": ()}
    assert flow(start(**rules), [100, 100, 100, 90])[-1] == "halted"
    assert flow(start(**rules), [90.0], first=30) == ["halted"]


def test_a_halt_needs_a_reason_and_a_right_config() -> None:
    with pytest.raises(ConfigError, match="without a reason"):
        by_hand(HALT, "  ")
    with pytest.raises(ConfigError, match=r"halt\.multiplier"):
        HaltConfig(multiplier=0.5)
    with pytest.raises(ConfigError, match=r"halt\.resume drawdown"):
        HaltConfig(resume=("drawdown",))
