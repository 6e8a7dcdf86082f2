"""The trial ledger: every training run and every look at a span of history, so that looking twice costs.

    with Trials() as trials:                       runs/trials.sqlite, or what HIMARI_TRIALS names
        number = trials.look("evaluate", market, first_ms, last_ms, look_of(version, bars, place), paths=paths_of(bars))

The best of N worthless strategies shows a Sharpe ratio of about sqrt(2 ln N) standard errors. The deflated Sharpe
ratio asks for N, and people forget to count, so the commands count themselves: a look is any judging of anything on a
span, and N is the number of different looks at overlapping spans that saw the same returns. Returns are known by their
path (fingerprint.py), not by the name of a file, a symbol or a folder; names decide only where a row has no path (it
was written before there were any) or where two paths have too little in common. The same bars with other signals are
another look. The same bundle on the same bars, or a run that is continued, shows nothing new: it is recorded and not
counted twice. The same command in another folder is counted, as nobody knows what was chosen in between.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from himari_rl.errors import StorageError
from himari_rl.schema import HOUR_MS, History
from himari_rl.storage.mirror import open_bucket
from himari_rl.trials.fingerprint import ZONES, any_same
from himari_rl.trials.row import Row
from himari_rl.trials.store import VARIABLE, ledger_exists, open_store

DEFAULT, IN_BUCKET = "runs/trials.sqlite", "trials"
TRAIN = "train"  # sees a span without judging on it: recorded, not counted
REGISTER = "register"  # says what will be judged: not counted either
ANY_MARKET = "*"
NO_LEDGER = "looks made elsewhere are not counted"


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
    paths: tuple[str, ...] = ()

    @property
    def is_look(self) -> bool:
        return self.purpose not in (TRAIN, REGISTER)


def market_name(history: History) -> str:
    """The symbols of a history; for a synthetic market its source too."""
    every = history.each
    names = "+".join(sorted(each.symbol for each in every))
    return f"{names} from {every[0].source}" if every[0].synthetic else names


def look_of(what: str, history: History, place: str = "") -> str:
    """A bundle's version or a configuration's hash, on these very bars and signals, looked at from a place.

    Args:
        place: the run's folder, or whatever tells a look that is only continued from one that is made again.
    """
    said = f"{what} on {history.fingerprint[:12]}"
    return f"{said} in {hashlib.sha256(place.encode()).hexdigest()[:6]}" if place else said


def ledger_place() -> str:
    """Where the trial ledger is: what HIMARI_TRIALS names, else runs/trials.sqlite.

    Of a run in a bucket it is gs://BUCKET/trials: a file of a container that ends would forget every look.
    """
    return os.environ.get(VARIABLE) or (f"{bucket}/{IN_BUCKET}" if (bucket := open_bucket()) else DEFAULT)


def has_ledger() -> bool:
    """Whether there is a ledger at its place. Nothing is written."""
    return ledger_exists(ledger_place())


def beginning_line() -> str:
    """The line that a command says before the first look in a ledger; empty where there have been looks."""
    if has_ledger():
        with Trials() as trials:
            if any(trial.is_look for trial in trials.history()):
                return ""
    return f"a new trial ledger begins at {_shown(ledger_place())}: {NO_LEDGER}"


def span_of(history: History) -> tuple[str, int, int]:
    """A history as the ledger names it: market, first and last time."""
    return market_name(history), int(history.timestamp[0]), int(history.timestamp[-1])


class Trials:
    """The ledger in one SQLite file, in a bucket, or behind any SQLAlchemy URL, safe for several processes at once.

    Args:
        place: a path or URL; by default what HIMARI_TRIALS names, else runs/trials.sqlite.

    Raises:
        StorageError: the file cannot be opened or is no ledger.
    """

    def __init__(self, place: str | Path | None = None) -> None:
        self._store = open_store(str(place or ledger_place()))

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
        self.add(TRAIN, market, first_ms, last_ms, what, detail)

    def look(
        self,
        purpose: str,
        market: str,
        first_ms: int,
        last_ms: int,
        what: str,
        detail: Mapping[str, Any] = {},
        *,
        paths: Sequence[str] = (),
    ) -> int:
        """Records a look at a span and counts the looks at it so far, this one included.

        Args:
            purpose: the command.
            what: made by `look_of`; the same one on the same span counts once.
            paths: of the returns that were seen, by `paths_of`; without them names decide.
        """
        self.add(purpose, market, first_ms, last_ms, what, detail, paths)
        return self.count(market, first_ms, last_ms, paths)

    def count(self, market: str, first_ms: int, last_ms: int, paths: Sequence[str] = ()) -> int:
        """Different looks at overlapping spans of the same returns; at least 1."""
        return max(1, len(different(self.history(market, first_ms, last_ms, paths))))

    def history(
        self, market: str | None = None, first_ms: int = 0, last_ms: int = 2**62, paths: Sequence[str] = ()
    ) -> list[Trial]:
        """Rows that saw some of the same returns in a span, or all rows in it without a market; the oldest first."""
        zone = ZONES[-1] * HOUR_MS if paths else 0  # a file in local time begins and ends hours away
        rows = [_trial(row) for row in self._store.overlapping(first_ms - zone, last_ms + zone)]
        return [t for t in rows if market is None or _same(t, market, first_ms, last_ms, paths)]

    def seen_by(self, what: str) -> Trial | None:
        """The last look whose `what` begins so."""
        return next((t for t in reversed(self.history()) if t.is_look and t.what.startswith(what)), None)

    def verify(self) -> None:
        """Returns where every row is as it was written.

        Raises:
            StorageError: names the first row that was changed, or that is gone.
        """
        if said := self._store.broken():
            raise StorageError(
                f"the trial ledger {_shown(ledger_place())} was changed by hand: {said}",
                "rows as the commands wrote them",
                "bring back a copy that is whole; its count is not what was looked at",
            )

    def add(
        self,
        purpose: str,
        market: str,
        first_ms: int,
        last_ms: int,
        what: str,
        detail: Mapping[str, Any],
        paths: Sequence[str] = (),
    ) -> None:
        """Appends a row, chained to the last one."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        said = json.dumps(detail, sort_keys=True)
        self._store.add(Row(now, purpose, market, int(first_ms), int(last_ms), what, said, json.dumps(list(paths))))


def different(trials: Sequence[Trial]) -> set[tuple[str, int, int]]:
    """The looks among some rows, each once."""
    return {(trial.what, trial.first_ms, trial.last_ms) for trial in trials if trial.is_look}


def _trial(row: Row) -> Trial:
    return Trial(**row._asdict() | {"detail": json.loads(row.detail), "paths": tuple(json.loads(row.paths))})


def _same(trial: Trial, market: str, first_ms: int, last_ms: int, paths: Sequence[str]) -> bool:
    """Whether a row saw the same returns: by their paths, or by names where paths cannot tell."""
    if ANY_MARKET in (trial.market, market):
        return True
    answer = any_same(paths, trial.paths)
    if answer is not None:
        return answer
    overlaps = trial.first_ms <= last_ms and trial.last_ms >= first_ms
    return overlaps and bool(_assets(trial.market) & _assets(market))


def plain_symbol(symbol: str) -> str:
    """A symbol however its file spells it: BTC/USDT, BTC-USDT and btcusdt are one."""
    return "".join(c for c in symbol if c.isalnum()).upper()


def _assets(market: str) -> frozenset[str]:
    """What a market is made of, however its files spell it; a synthetic market is like no other."""
    if " from " in market:
        return frozenset([market])
    return frozenset(plain_symbol(name) for name in market.split("+"))


def _shown(place: str) -> str:
    """A place without the password that a database's URL may hold."""
    scheme, divider, rest = place.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if divider else place
