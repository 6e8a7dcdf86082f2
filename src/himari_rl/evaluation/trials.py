"""The trial ledger: every training run and every look at a span of history, so that looking twice costs.

    with Trials() as trials:                       runs/trials.sqlite, or the file HIMARI_TRIALS names
        number = trials.look("evaluate", market, first_ms, last_ms, what=look_of(version, bars))

The best of N worthless strategies shows a Sharpe ratio of about sqrt(2 ln N) standard errors. The deflated Sharpe
ratio asks for N, and people forget to count, so the commands count themselves: a look is any judging of anything on a
span, and N is the number of different looks at spans of a market with an asset in common that overlap this one. The
same bars with other signals are another look. Looking at the same bundle on the same bars again shows nothing new: it
is recorded and not counted twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from himari_rl.data.panel import Panel
from himari_rl.evaluation.trial_store import VARIABLE, Row, is_url, open_store
from himari_rl.schema import Bars

DEFAULT = "runs/trials.sqlite"
TRAIN = "train"  # sees a span without judging on it: recorded, not counted


@dataclass(frozen=True)
class Trial:
    """One row of the ledger."""

    at: str
    purpose: str
    market: str
    first_ms: int
    last_ms: int
    what: str
    detail: dict[str, Any]


def market_name(history: Bars | Panel) -> str:
    """What tells one history from another: the symbols; for a synthetic market its source too."""
    every = history.each
    names = "+".join(sorted(each.symbol for each in every))
    return f"{names} from {every[0].source}" if every[0].synthetic else names


def look_of(what: str, history: Bars | Panel) -> str:
    """A bundle's version or a configuration's hash, on these very bars and signals."""
    return f"{what} on {history.fingerprint[:12]}"


def looks_so_far(market: str, first_ms: int, last_ms: int) -> int:
    """Different looks at a span in the ledger there is; 1 where there is none. Nothing is written."""
    place = os.environ.get(VARIABLE) or DEFAULT
    if not is_url(place) and not Path(place).exists():
        return 1
    with Trials(place) as trials:
        return trials.count(market, first_ms, last_ms)


def plain_name(symbol: str) -> str:
    """A symbol however its file spells it: BTC/USDT, BTC-USDT and btcusdt are one."""
    return "".join(c for c in symbol if c.isalnum()).upper()


def _assets(market: str) -> frozenset[str]:
    """What a market is made of, however its files spell it; a synthetic market is like no other."""
    if " from " in market:
        return frozenset([market])
    return frozenset(plain_name(name) for name in market.split("+"))


def span_of(history: Bars | Panel) -> tuple[str, int, int]:
    """A history as the ledger knows it: market, first and last time."""
    return market_name(history), int(history.timestamp[0]), int(history.timestamp[-1])


class Trials:
    """The ledger in one SQLite file, or behind any SQLAlchemy URL, safe for several processes at once.

    Args:
        place: a path or URL; by default what HIMARI_TRIALS names, else runs/trials.sqlite.

    Raises:
        StorageError: the file cannot be opened or is no ledger.
    """

    def __init__(self, place: str | Path | None = None) -> None:
        self._store = open_store(str(place or os.environ.get(VARIABLE) or DEFAULT))

    def __enter__(self) -> Trials:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._store.close()

    def require_writable(self) -> None:
        """Finds out whether a row could be added.

        Raises:
            StorageError: it could not.
        """
        self._store.require_writable()

    def trained(self, market: str, first_ms: int, last_ms: int, what: str, detail: Mapping[str, Any] = {}) -> None:
        """Records a training run on a span."""
        self._add(TRAIN, market, first_ms, last_ms, what, detail)

    def look(
        self,
        purpose: str,
        market: str,
        first_ms: int,
        last_ms: int,
        what: str,
        detail: Mapping[str, Any] = {},
    ) -> int:
        """Records a look at a span and counts the looks at it so far, this one included.

        Args:
            purpose: the command.
            what: made by `look_of`; the same one on the same span counts once.
        """
        self._add(purpose, market, first_ms, last_ms, what, detail)
        return self.count(market, first_ms, last_ms)

    def count(self, market: str, first_ms: int, last_ms: int) -> int:
        """Different looks at spans that overlap this one, of markets with an asset in common; at least 1."""
        looks = (trial for trial in self.history(market, first_ms, last_ms) if trial.purpose != TRAIN)
        return max(1, len({(trial.what, trial.first_ms, trial.last_ms) for trial in looks}))

    def history(self, market: str | None = None, first_ms: int = 0, last_ms: int = 2**62) -> list[Trial]:
        """Rows that overlap a span, of markets with an asset in common, or of all markets; the oldest first."""
        rows = self._store.overlapping(first_ms, last_ms)
        found = [Trial(*row[:-1], detail=json.loads(row.detail)) for row in rows]
        return [t for t in found if market is None or _assets(t.market) & _assets(market)]

    def _add(
        self, purpose: str, market: str, first_ms: int, last_ms: int, what: str, detail: Mapping[str, Any]
    ) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        said = json.dumps(detail, sort_keys=True)
        self._store.add(Row(now, purpose, market, int(first_ms), int(last_ms), what, said))
