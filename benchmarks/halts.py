"""The kill switch: each rule trips in a replay made for it, holds through kill -9 and ends only as it is written.

    python benchmarks/halts.py

Every case is `himari run` in a process of its own, fed bar by bar: to the halt, killed with -9, started again on its
journal, fed on. The journal is verified at the end. A control runs each replay with the rule off: nothing may halt.
Exit code 1 where a rule trips on another bar than it was made for, does not hold, or ends otherwise than as written.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from helpers.bundle import make_bundle
from helpers.stream import market, said
from himari_rl.features.encoder import StateEncoder
from himari_rl.journal.entry import HALT, RESUME
from himari_rl.journal.store import open_journal
from himari_rl.policy.drift_reference import reference_of
from himari_rl.policy.risk import RiskLimits
from himari_rl.policy.runtime import load_policy
from himari_rl.runner.halt import harm
from himari_rl.schema import HOUR_MS

HIMARI = (sys.executable, "-m", "himari_rl")
MIDNIGHT = 1_704_067_200_000
RULES = ("daily_loss", "drawdown", "volatility", "stale_bars")
WARM, DEAD = 240, 500
Line = tuple[int, str]  # bar's number, signal


@dataclass(frozen=True, kw_only=True)
class Case:
    """One rule."""

    rule: str
    replay: str  # what it is made of, for people
    settings: dict[str, float]  # of HaltConfig
    lines: Sequence[Line]
    trips: tuple[int, int]  # the first and the last bar on which it may
    ends: int | None  # the bar on which it ends by its rule; None: by hand alone
    resumed: dict[str, float] | None = None  # settings after a hand has resumed, where the rule would trip again
    enters: Callable[[str], None] | None = None  # what halts, where no bar does: given the journal


def priced(closes: Sequence[float], hours: Sequence[int] | None = None) -> list[Line]:
    """BUY on bars that open at the close before: from hour 1 half of equity is held."""
    found = []
    for k, hour in enumerate(hours or range(len(closes))):
        bar = {"timestamp": MIDNIGHT + hour * HOUR_MS, "open": closes[max(k - 1, 0)], "close": closes[k]}
        says = {"action": "BUY", "confidence": 0.9, "tier": "T1", "cascade_risk": 0.0}
        found.append((hour, json.dumps({"strategy": "s", "symbol": "BTC-USDT", "bar": bar, "signal": says})))
    return found


def dying(rows: range, dead: range) -> list[Line]:
    """An artificial market whose confidence is one number within `dead`."""
    bars, found = market("BTC-USDT", 8, rows.stop), []
    for row in rows:
        signal_ = said(bars, row, "s")
        if row in dead:
            signal_["signal"]["confidence"] = 0.777
        found.append((row, json.dumps(signal_)))
    return found


def ordered(*words: str) -> None:
    """One command that must succeed."""
    subprocess.run([*HIMARI, *words], check=True, capture_output=True)


def cases() -> list[Case]:
    """What halts, and when by hand computation."""
    still = [100.0] * 60
    wild = [100.0 * (1.05 if k % 2 else 1.0) for k in range(24)]

    def by_hand(place: str) -> None:
        ordered("run", "halt", "--journal", place, "--why", "the exchange is down")

    def by_test(place: str) -> None:
        with open_journal(place) as journal:
            journal.append([harm("s", "BTC-USDT", "the challenger is worse")])

    return [
        Case(
            rule="daily_loss 4 %",
            replay="half of equity held, price falls 10 % within bar 3: 5 % of the day",
            settings={"daily_loss": 0.04},
            lines=priced([100.0] * 3 + [90.0] * 30),
            trips=(3, 3),
            ends=24,
        ),
        Case(
            rule="drawdown 5 %",
            replay="price falls 4 % a bar: 4 % of equity by bar 2, 6 % by bar 3",
            settings={"drawdown": 0.05},
            lines=priced([100.0 * 0.96**k for k in range(6)] + [80.0] * 60),
            trips=(3, 3),
            ends=None,
            resumed={"drawdown": 0.9},
        ),
        Case(
            rule="volatility 4 %",
            replay="closes alternate by 5 % (deviation 5 % once 20 returns are there), still from bar 24",
            settings={"volatility": 0.04},
            lines=priced(wild + [wild[-1]] * 24),
            trips=(20, 21),
            ends=-1,
        ),
        Case(
            rule="stale 3 bars",
            replay="bars 3 to 5 do not come; three bars in a row end it",
            settings={"stale_bars": 3.0, "fresh_bars": 3},
            lines=priced(still[:12], [0, 1, 2, *range(6, 15)]),
            trips=(6, 6),
            ends=9,
        ),
        Case(
            rule="drift 1 bar",
            replay=f"signal confidence stands still from bar {DEAD} to {DEAD + 119}",
            settings={"drift_bars": 1, "fresh_bars": 3},
            lines=dying(range(WARM, 900), range(DEAD, DEAD + 120)),
            trips=(DEAD, DEAD + 100),
            ends=-1,
        ),
        Case(
            rule="harm",
            replay="an A/B test in split mode ends for harm after bar 4",
            settings={},
            lines=priced(still),
            trips=(5, 5),
            ends=None,
            enters=by_test,
        ),
        Case(
            rule="hand",
            replay="himari run halt --why after bar 4",
            settings={},
            lines=priced(still),
            trips=(5, 5),
            ends=None,
            enters=by_hand,
        ),
    ]


class Running:
    """`himari run` on a journal; Layer 2 alone decides, under no limit of the ledger."""

    def __init__(self, bundle: Path, place: str, settings: dict[str, float]) -> None:
        off = dict.fromkeys(RULES, float("inf")) | {"drift_bars": 0}
        given = {f"halt.{name}": value for name, value in (off | settings).items()}
        free = {f"risk.{name}": getattr(RiskLimits.off(), name) for name in vars(RiskLimits())}
        words = [f"--set={key}={value}" for key, value in (given | free | {"run.enable_rl": "false"}).items()]
        command = [*HIMARI, "run", "--bundle", str(bundle), "--journal", place, "--clock", "bar", *words]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def told(self, line: str) -> dict[str, Any]:
        """What is decided on one bar."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def kill(self) -> None:
        """-9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def shown(case: Case, bundle: Path, place: str) -> tuple[str, ...]:
    """The row of one rule.

    Raises:
        SystemExit: it is not as it must be.
    """
    lines = list(case.lines)
    first = Running(bundle, place, case.settings)
    for bar, line in lines:
        if case.enters is not None and bar == case.trips[0]:
            case.enters(place)
        if first.told(line)["cause"] == "halted":
            break
    else:
        raise SystemExit(f"{case.rule}: it never trips")
    first.kill()
    tripped, rest = bar, lines[[each for each, _ in lines].index(bar) + 1 :]
    again = Running(bundle, place, case.settings)
    ended: int | None = None
    for bar, line in rest:
        if again.told(line)["cause"] != "halted":
            ended = bar
            break
    again.kill()
    if case.ends is None and ended is None:
        held = len(rest) - 1
        ordered("run", "resume", "--journal", place, "--why", "positions checked")
        after = Running(bundle, place, case.settings | (case.resumed or {}))
        told = after.told(priced([80.0], [100])[0][1])
        after.kill()
        how = "by hand alone; went on" if told["cause"] != "halted" else "NOT resumed"
        ended = 100 if told["cause"] != "halted" else None
    else:
        held, how = sum(bar < (ended or 0) for bar, _ in rest), f"by its rule on bar {ended}"
    with open_journal(place, create=False) as journal:
        journal.verify()
        whys = [row.entry.said["why"] for row in journal.entries(kinds=[HALT])][:1]
        over = [row.entry.said["why"] for row in journal.entries(kinds=[RESUME])][:1]
    right = case.trips[0] <= tripped <= case.trips[1] and ended is not None and held > 0
    right = right and (case.ends in (None, -1, ended))
    if not right:
        raise SystemExit(f"{case.rule}: trips on bar {tripped}, holds {held} bars, {how}; expected {case}")
    return case.rule, case.replay, f"bar {tripped}: {whys[0]}", f"{held} bars", f"{how}: {over[0]}"


def control(case: Case, bundle: Path, place: str) -> None:
    """The same replay with every rule off.

    Raises:
        SystemExit: something halts.
    """
    running = Running(bundle, place, {})
    halted = [bar for bar, line in case.lines if running.told(line)["cause"] == "halted"]
    running.kill()
    if halted:
        raise SystemExit(f"{case.rule}: with the rule off bar {halted[0]} is halted")


def main() -> None:
    """Prints the table as Markdown."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "").parse_args()
    print("| rule | made replay | trips on | holds after kill -9 | ends |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        plain = make_bundle(place, name="plain", hidden=(8,))
        rows = StateEncoder(("BTC-USDT",)).market_rows(market("BTC-USDT", 3, 9_000))[WARM:]
        spec = reference_of(load_policy(plain), rows, ("BTC-USDT",), False)
        assert spec is not None
        bundle = make_bundle(place, name="bundle", hidden=(8,), drift=spec.model_dump(mode="json"))
        for number, case in enumerate(cases()):
            print(f"| {' | '.join(shown(case, bundle, str(place / f'{number}.sqlite')))} |", flush=True)
            control(case, bundle, str(place / f"{number}-off.sqlite"))


if __name__ == "__main__":
    main()
