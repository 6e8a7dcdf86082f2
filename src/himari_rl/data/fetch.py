"""Candles from a public exchange into one Parquet file, page by page, through ccxt.

    fetch("BTC-USD", since="2020-01-01")  ->  data/coinbase/BTC-USD_1h.parquet

What is on disk is never asked for again: a second run continues where the first one stopped, whatever stopped it,
and ends in the same file. The file is replaced whole, every few pages and at the end. A candle that is still open
is left out. What the exchange does not have stays a gap.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from himari_rl.data.cells import floats, integers
from himari_rl.data.checks import interval_ms
from himari_rl.data.table import write_bars
from himari_rl.errors import ConfigError, DataError
from himari_rl.schema import DAY_MS, PRICES, Bars, FloatArray
from himari_rl.storage import is_file, join, read_bytes

PAGES_PER_WRITE = 10
ATTEMPTS = 8
LONGEST_WAIT_S = 60.0
FEWEST_PAGE_ROWS = 100  # where ccxt does not know how many candles a page of the exchange holds
SETTLE_MS = DAY_MS  # an exchange may publish a candle late: emptiness counts as an answer after a day
FIRST_WAIT_S = 1.0
# These serve only their latest candles, whatever is asked: older history would silently be missing.
RECENT_ONLY = {"kraken": 720}
_KEY = b"himari_fetch"

Progress = Callable[[int, int], None]  # (milliseconds done, milliseconds in all)


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What a download came to."""

    path: str
    exchange: str
    symbol: str
    rows: int
    new_rows: int
    start_ms: int
    end_ms: int  # open of the last bar
    missing_bars: int


@dataclass
class _Store:
    """The file, local or gs://, and the rows in memory."""

    path: str
    interval_ms: int
    exchange: str
    rows: dict[int, tuple[float, ...]] = field(default_factory=dict)
    spans: list[tuple[int, int]] = field(default_factory=list)  # [from, to) that were asked for and answered

    def load(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not is_file(self.path):
            return
        try:
            with pq.ParquetFile(io.BytesIO(read_bytes(self.path)), page_checksum_verification=True) as reader:
                table = reader.read()
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path} cannot be read", "the file of an earlier fetch", "move it away") from error
        note = json.loads((table.schema.metadata or {}).get(_KEY, b"{}"))
        if note.get("exchange") != self.exchange:
            raise DataError(
                f"{self.path} is not a download from {self.exchange}", "a file that fetch wrote", "choose another --out"
            )
        self.spans = [(int(start), int(end)) for start, end in note["spans"]]
        times = integers(table["timestamp"])
        columns = [floats(table[name]).tolist() for name in (*PRICES, "volume")]
        self.rows = dict(zip(times.tolist(), zip(*columns, strict=True), strict=True))

    def answered(self, start: int, end: int) -> None:
        """Notes that [start, end) is complete; neighbouring spans become one."""
        merged: list[tuple[int, int]] = []
        for low, high in sorted([*self.spans, (start, end)]):
            if merged and low <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
            else:
                merged.append((low, high))
        self.spans = merged

    def open_spans(self, start: int, end: int) -> list[tuple[int, int]]:
        """The parts of [start, end) that were never answered, in order."""
        parts, cursor = [], start
        for low, high in self.spans:
            if low > cursor:
                parts.append((cursor, min(low, end)))
            cursor = max(cursor, high)
        parts.append((cursor, end))
        return [(low, high) for low, high in parts if low < high]

    def write(self, symbol: str) -> None:
        if not self.rows:
            return
        times = np.array(sorted(self.rows), np.int64)
        values: FloatArray = np.array([self.rows[time] for time in times.tolist()], np.float64)
        named = dict(zip((*PRICES, "volume"), values.T, strict=True))
        bars = Bars(symbol=symbol, timestamp=times, **named, interval_ms=self.interval_ms, source=self.exchange)
        note = json.dumps({"exchange": self.exchange, "spans": self.spans})
        write_bars(bars, self.path, {_KEY.decode(): note})


def fetch(
    symbol: str,
    since: str,
    until: str | None = None,
    *,
    exchange: str = "coinbase",
    timeframe: str = "1h",
    out: str | Path = "data",
    client: Any = None,
    progress: Progress | None = None,
) -> Fetched:
    """Downloads the candles of [since, until) that the file does not hold yet.

    Args:
        symbol: BTC-USD or BTC/USD, as the exchange trades it.
        since: ISO date or time, UTC; `until` likewise, now if not given.
        exchange: a ccxt id.
        out: the folder; the file is OUT/EXCHANGE/SYMBOL_TIMEFRAME.parquet.
        client: a ccxt exchange to use instead of a new one.
        progress: called after each page.

    Raises:
        ConfigError: an unknown exchange, timeframe, or an empty span of time.
        DataError: an unknown symbol, no candles at all, or an exchange that does not answer.
        StorageError: the file cannot be written.
    """
    import ccxt

    client = client if client is not None else open_exchange(exchange)
    step = interval_ms(timeframe)
    start = -(-_moment(since) // step) * step
    now = int(client.milliseconds())
    end = min(now if until is None else _moment(until), now) // step * step  # the candle still open is left out
    if start >= end:
        raise ConfigError(f"nothing lies between {since} and {until or 'now'}", "since before until", "check the dates")
    _require_history(exchange, timeframe, start, now, step)
    name = f"{symbol.replace('/', '-')}_{timeframe}.parquet"
    store = _Store(join(join(out, exchange), name), step, exchange)
    store.load()
    before = len(store.rows)
    try:
        market = _market(client, symbol, timeframe, exchange)
        _download(client, market, timeframe, store, (start, end), symbol, progress)
    except ccxt.NetworkError as error:
        kept = f"{len(store.rows) - before} new bars are kept"
        raise DataError(
            f"{exchange} did not answer {ATTEMPTS} times ({_short(error)})", "", f"{kept}; run it again"
        ) from error
    except ccxt.BaseError as error:
        raise DataError(f"{exchange} refused ({_short(error)})", "", "check the symbol and the exchange") from error
    finally:
        store.write(symbol)
    if not store.rows:
        raise DataError(f"{exchange} has no {timeframe} candles of {symbol} since {since}", "", "try a later --since")
    times = sorted(store.rows)
    return Fetched(
        path=store.path,
        exchange=exchange,
        symbol=symbol,
        rows=len(times),
        new_rows=len(times) - before,
        start_ms=times[0],
        end_ms=times[-1],
        missing_bars=(times[-1] - times[0]) // step + 1 - len(times),
    )


def open_exchange(exchange: str) -> Any:
    """A ccxt client that keeps the exchange's rate limit.

    Raises:
        ConfigError: ccxt knows no such exchange.
    """
    import ccxt

    if exchange not in ccxt.exchanges:
        near = ", ".join(get_close_matches(exchange, ccxt.exchanges)) or "coinbase, binance, bitstamp"
        raise ConfigError(f"ccxt knows no exchange {exchange!r}", f"one like {near}", "check --exchange")
    return getattr(ccxt, exchange)({"enableRateLimit": True, "timeout": 20_000})


def _market(client: Any, symbol: str, timeframe: str, exchange: str) -> str:
    """The exchange's own name for the symbol."""
    if timeframe not in (client.timeframes or {}):
        raise ConfigError(f"{exchange} has no {timeframe} candles", f"one of {', '.join(client.timeframes or {})}")
    markets = _retried(client.load_markets)
    name = symbol.replace("-", "/")
    if name not in markets:
        near = [m.replace("/", "-") for m in get_close_matches(name, [m for m in markets if ":" not in m], 4, 0.5)]
        raise DataError(f"{exchange} does not trade {symbol}", f"one like {', '.join(near) or '(nothing near)'}", "")
    return name


def _download(
    client: Any,
    market: str,
    timeframe: str,
    store: _Store,
    span: tuple[int, int],
    symbol: str,
    progress: Progress | None,
) -> None:
    """Asks for every open part of the span, page by page."""
    step, rows, settled = store.interval_ms, _page_rows(client), int(client.milliseconds()) - SETTLE_MS
    total, pages = span[1] - span[0], 0
    for low, high in store.open_spans(*span):
        cursor = low
        while cursor < high:
            page = _retried(client.fetch_ohlcv, market, timeframe, cursor, rows)
            fresh = [candle for candle in page if cursor <= candle[0] < high]
            for time, *values in fresh:
                store.rows[int(time)] = tuple(float("nan") if value is None else float(value) for value in values)
            later = [int(candle[0]) for candle in page if candle[0] >= cursor]
            reached = min(max(later) + step if later else cursor + rows * step, high)
            if later or reached <= settled:
                store.answered(cursor, reached)
            cursor = reached
            pages += 1
            if pages % PAGES_PER_WRITE == 0:
                store.write(symbol)
            if progress is not None:
                left = sum(end - max(start, cursor) for start, end in store.open_spans(*span) if end > cursor)
                progress(total - left, total)


def _page_rows(client: Any) -> int:
    """The largest page the exchange gives, as ccxt knows it; a smaller guess costs requests, a larger one rows."""
    known = ((client.features or {}).get("spot") or {}).get("fetchOHLCV") or {}
    return int(known.get("limit") or FEWEST_PAGE_ROWS)


def _retried(call: Callable[..., Any], *arguments: Any) -> Any:
    """The call's answer; after a network error or a 429 it waits (exponentially, with jitter) and asks again."""
    import ccxt
    import tenacity

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(ccxt.NetworkError),
        wait=tenacity.wait_random_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        reraise=True,
    )(call, *arguments)


def _require_history(exchange: str, timeframe: str, start: int, now: int, step: int) -> None:
    most = RECENT_ONLY.get(exchange)
    if most is not None and start < now - most * step:
        found = f"{exchange} serves only its latest {most} {timeframe} candles"
        raise DataError(found, "a later --since", "or take coinbase, binance or bitstamp")


def _moment(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{text!r} is no date", "ISO 8601, UTC", "for example 2020-01-01") from error
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return int(moment.timestamp()) * 1000


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:140] or type(error).__name__
