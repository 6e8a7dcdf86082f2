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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import sqlalchemy as sa

from himari_rl.data.panel import Panel
from himari_rl.errors import StorageError
from himari_rl.schema import Bars

DEFAULT = "runs/trials.sqlite"
VARIABLE = "HIMARI_TRIALS"
TRAIN = "train"  # sees a span without judging on it: recorded, not counted
BUSY_S = 30.0

_META = sa.MetaData()
TABLE = sa.Table(
    "trials",
    _META,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.String, nullable=False),
    sa.Column("purpose", sa.String, nullable=False),
    sa.Column("market", sa.String, nullable=False),
    sa.Column("first_ms", sa.BigInteger, nullable=False),
    sa.Column("last_ms", sa.BigInteger, nullable=False),
    sa.Column("what", sa.String, nullable=False),
    sa.Column("detail", sa.String, nullable=False),
)


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
    if "://" not in place and not Path(place).exists():
        return 1
    with Trials(place) as trials:
        return trials.count(market, first_ms, last_ms)


def _assets(market: str) -> frozenset[str]:
    """What a market is made of, however its files spell it; a synthetic market is like no other."""
    if " from " in market:
        return frozenset([market])
    return frozenset("".join(c for c in name if c.isalnum()).upper() for name in market.split("+"))


def span_of(history: Bars | Panel) -> tuple[str, int, int]:
    """A history as the ledger knows it: market, first and last time."""
    return market_name(history), int(history.timestamp[0]), int(history.timestamp[-1])


class Trials:
    """The ledger in one SQLite file, or behind any SQLAlchemy URL, safe for several processes at once.

    Raises:
        StorageError: the file cannot be opened or is no ledger.
    """

    def __init__(self, place: str | Path | None = None) -> None:
        self.place = str(place or os.environ.get(VARIABLE) or DEFAULT)
        url = self.place
        if "://" not in url:
            try:
                Path(url).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise self._refusal(error) from error
            url = f"sqlite:///{url}"
        options = {"timeout": BUSY_S} if url.startswith("sqlite") else {}
        self.engine = sa.create_engine(url, connect_args=options)
        try:
            _META.create_all(self.engine)
        except sa.exc.SQLAlchemyError as error:
            self.engine.dispose()
            raise self._refusal(error) from error

    def __enter__(self) -> Trials:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.engine.dispose()

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
        where = (TABLE.c.first_ms <= last_ms) & (TABLE.c.last_ms >= first_ms)
        rows = self._fetch(sa.select(TABLE).where(where).order_by(TABLE.c.id))
        found = [Trial(r.at, r.purpose, r.market, r.first_ms, r.last_ms, r.what, json.loads(r.detail)) for r in rows]
        return [t for t in found if market is None or _assets(t.market) & _assets(market)]

    def _add(
        self,
        purpose: str,
        market: str,
        first_ms: int,
        last_ms: int,
        what: str,
        detail: Mapping[str, Any],
    ) -> None:
        row = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "purpose": purpose,
            "market": market,
            "first_ms": int(first_ms),
            "last_ms": int(last_ms),
            "what": what,
            "detail": json.dumps(detail, sort_keys=True),
        }
        try:
            with self.engine.begin() as connection:
                connection.execute(TABLE.insert(), row)
        except sa.exc.SQLAlchemyError as error:
            raise self._refusal(error) from error

    def _fetch(self, query: Any) -> Sequence[Any]:
        try:
            with self.engine.connect() as connection:
                return connection.execute(query).all()
        except sa.exc.SQLAlchemyError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: Exception) -> StorageError:
        reason = str(getattr(error, "orig", None) or error)
        return StorageError(
            f"the trial ledger {self.place} cannot be used: {reason}", "", f"name a writable file in {VARIABLE}"
        )
