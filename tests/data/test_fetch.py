"""`himari data fetch` with the real ccxt client against a local server that answers as Binance or Coinbase does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import ccxt
import pytest
from click.testing import CliRunner

from helpers.data import START, bars_at
from himari_rl.cli import data as data_cli
from himari_rl.cli.signature import make_group
from himari_rl.data import fetch as fetching
from himari_rl.data.fetch import fetch, open_exchange
from himari_rl.data.sources import load_bars
from himari_rl.data.table import write_bars
from himari_rl.errors import ConfigError, DataError, StorageError
from himari_rl.schema import HOUR_MS

HOURS = 3_000
GAP = range(700, 1_150)  # an outage longer than a page of Coinbase
SINCE, UNTIL = "2024-01-01", "2024-05-05"  # 3,000 hours


def candle(hour: int) -> dict[str, float]:
    """The true candle of an hour."""
    price = 100.0 + hour % 50
    return {"open": price, "high": price + 2.5, "low": price - 1.5, "close": price + 1.0, "volume": 1.0 + hour}


class Exchange:
    """A local exchange: its candles, the questions it was asked, and the faults it is told to have."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.faults: list[int] = []  # HTTP statuses that the next candle questions get
        self.listed_from = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlparse(self.path)
                status, answer = server.answer(url.path, {k: v[0] for k, v in parse_qs(url.query).items()})
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def answer(self, path: str, query: dict[str, str]) -> tuple[int, Any]:
        if path.endswith("/exchangeInfo"):
            spot = "/api/v3" in path
            return 200, {"timezone": "UTC", "serverTime": START, "symbols": [_BINANCE_SYMBOL] if spot else []}
        if path.startswith("/v2/"):  # Coinbase's lists of currencies and exchange rates
            return 200, {"data": {"currency": "USD", "rates": {}} if path.endswith("rates") else []}
        if path.endswith("/market/products"):
            return 200, {"products": [_COINBASE_PRODUCT] if "product_type" not in query else []}
        if path.endswith(("/klines", "/candles")):
            self.asked.append(path + "?" + "&".join(f"{k}={v}" for k, v in sorted(query.items())))
            if self.faults:
                return self.faults.pop(0), {"code": -1003, "msg": "Too many requests."}
            return 200, self._klines(query) if path.endswith("/klines") else self._candles(query)
        return 404, {"msg": f"no {path}"}

    def _hours(self, first: int, last: int) -> list[int]:
        return [h for h in range(max(first, self.listed_from), min(last + 1, HOURS)) if h not in GAP]

    def _klines(self, query: dict[str, str]) -> list[list[Any]]:
        """The first `limit` candles that open at or after startTime: an outage is jumped over."""
        first = -(-(int(query["startTime"]) - START) // HOUR_MS)
        rows = []
        for hour in self._hours(first, HOURS)[: int(query.get("limit", 500))]:
            c, time = candle(hour), START + hour * HOUR_MS
            prices = [str(c[name]) for name in ("open", "high", "low", "close", "volume")]
            rows.append([time, *prices, time + HOUR_MS - 1, "0", 1, "0", "0", "0"])
        return rows

    def _candles(self, query: dict[str, str]) -> dict[str, Any]:
        """The candles of [start, end], newest first: an outage is an empty answer."""
        first, last = (-(-(int(query[name]) * 1000 - START) // HOUR_MS) for name in ("start", "end"))
        hours = self._hours(first, last)[:350]
        rows = [{k: str(v) for k, v in candle(h).items()} | {"start": str(START // 1000 + 3600 * h)} for h in hours]
        return {"candles": rows[::-1]}


_FILTERS = [
    {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "1000000.00", "tickSize": "0.01"},
    {"filterType": "LOT_SIZE", "minQty": "0.00001", "maxQty": "9000.0", "stepSize": "0.00001"},
]
_BINANCE_SYMBOL = {
    "symbol": "BTCUSDT",
    "status": "TRADING",
    "baseAsset": "BTC",
    "baseAssetPrecision": 8,
    "quoteAsset": "USDT",
    "quotePrecision": 8,
    "quoteAssetPrecision": 8,
    "orderTypes": ["LIMIT"],
    "isSpotTradingAllowed": True,
    "isMarginTradingAllowed": False,
    "filters": _FILTERS,
    "permissions": ["SPOT"],
}
_COINBASE_PRODUCT = {
    "product_id": "BTC-USD",
    "base_increment": "0.00000001",
    "quote_increment": "0.01",
    "quote_min_size": "1",
    "quote_max_size": "150000000",
    "base_min_size": "0.00000001",
    "base_max_size": "3400",
    "status": "online",
    "trading_disabled": False,
    "product_type": "SPOT",
    "quote_currency_id": "USD",
    "base_currency_id": "BTC",
    "base_display_symbol": "BTC",
    "quote_display_symbol": "USD",
    "price_increment": "0.01",
    "alias_to": [],
}


@pytest.fixture
def exchange(monkeypatch: pytest.MonkeyPatch) -> Iterator[Exchange]:
    monkeypatch.setattr(fetching, "FIRST_WAIT_S", 0.0)
    local = Exchange()
    yield local
    local.close()


def client(local: Exchange, name: str, now: int = START + 10 * HOURS * HOUR_MS) -> Any:
    """The real ccxt client, pointed at the local server, at a fixed time."""
    real = open_exchange(name)
    assert real.enableRateLimit
    real.rateLimit = 1  # milliseconds between two requests: the server is ours
    urls = real.urls["api"]
    for kind, url in list(urls.items()):
        if isinstance(url, str):
            urls[kind] = local.url + urlparse(url).path
    real.milliseconds = lambda: now
    return real


MARKETS = [("coinbase", "BTC-USD"), ("binance", "BTC-USDT")]


def download(local: Exchange, name: str, symbol: str, out: Path, **options: Any) -> Any:
    arguments = {"since": SINCE, "until": UNTIL, "client": client(local, name)} | options
    return fetch(symbol, exchange=name, out=out, **arguments)


def hours_of(path: str | Path) -> list[int]:
    return ((load_bars(path).timestamp - START) // HOUR_MS).tolist()


@pytest.mark.parametrize(("name", "symbol"), MARKETS)
def test_every_candle_comes_once_over_many_pages_and_a_gap_stays_a_gap(
    exchange: Exchange, tmp_path: Path, name: str, symbol: str
) -> None:
    shown: list[tuple[int, int]] = []
    done = download(exchange, name, symbol, tmp_path, progress=lambda now, total: shown.append((now, total)))
    truth = [hour for hour in range(HOURS) if hour not in GAP]
    assert done.path == str(tmp_path / name / f"{symbol}_1h.parquet")
    assert hours_of(done.path) == truth
    assert (done.rows, done.new_rows, done.missing_bars) == (len(truth), len(truth), len(GAP))
    bars = load_bars(done.path)
    assert bars.open.tolist() == [candle(hour)["open"] for hour in truth]
    assert bars.close.tolist() == [candle(hour)["close"] for hour in truth]
    assert bars.volume.tolist() == [candle(hour)["volume"] for hour in truth]
    assert len(exchange.asked) >= 3
    assert shown == sorted(shown)
    assert shown[-1] == (HOURS * HOUR_MS, HOURS * HOUR_MS)


@pytest.mark.parametrize(("name", "symbol"), MARKETS)
@pytest.mark.parametrize("pages", [1, 2])
def test_an_interrupted_download_continues_and_ends_in_the_same_file(
    exchange: Exchange, tmp_path: Path, name: str, symbol: str, pages: int
) -> None:
    whole = Path(download(exchange, name, symbol, tmp_path / "whole").path).read_bytes()
    uninterrupted = len(exchange.asked)
    seen: list[int] = []

    def interrupt(now: int, total: int) -> None:
        seen.append(now)
        if len(seen) == pages:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(exchange, name, symbol, tmp_path / "cut", progress=interrupt)
    path = tmp_path / "cut" / name / f"{symbol}_1h.parquet"
    kept = len(load_bars(path))
    assert kept > 0
    done = download(exchange, name, symbol, tmp_path / "cut")
    assert Path(done.path).read_bytes() == whole
    assert done.new_rows == done.rows - kept
    assert len(exchange.asked) == 2 * uninterrupted  # nothing was asked for twice


def test_a_second_run_asks_nothing_again_and_an_earlier_since_asks_only_for_the_part_before(
    exchange: Exchange, tmp_path: Path
) -> None:
    download(exchange, "coinbase", "BTC-USD", tmp_path, since="2024-02-01")
    exchange.asked.clear()
    assert download(exchange, "coinbase", "BTC-USD", tmp_path, since="2024-02-01").new_rows == 0
    assert exchange.asked == []
    done = download(exchange, "coinbase", "BTC-USD", tmp_path)
    assert hours_of(done.path) == [hour for hour in range(HOURS) if hour not in GAP]
    assert len(exchange.asked) == 4  # the 744 hours of January from 0, 300, 600 and, after the last candle, 700


def test_a_429_is_waited_out_and_a_server_that_stays_away_leaves_what_was_got(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange.faults = [429, 429, 503]
    done = download(exchange, "binance", "BTC-USDT", tmp_path / "a")
    assert done.rows == HOURS - len(GAP)
    assert exchange.faults == []

    def then_fail(now: int, total: int) -> None:
        exchange.faults = [503] * 100

    with pytest.raises(DataError, match=r"did not answer 8 times.*1000 new bars are kept; run it again"):
        download(exchange, "binance", "BTC-USDT", tmp_path / "b", progress=then_fail)
    assert len(load_bars(tmp_path / "b" / "binance")) == 1000
    assert len(exchange.faults) == 92
    monkeypatch.setattr(fetching, "ATTEMPTS", 3)  # the negative control: three attempts do not outlast three faults
    exchange.faults = [429, 429, 429]
    with pytest.raises(DataError, match="did not answer 3 times"):
        download(exchange, "binance", "BTC-USDT", tmp_path / "c")


def test_the_candle_still_open_is_left_out_and_comes_when_it_is_closed(exchange: Exchange, tmp_path: Path) -> None:
    half_past_99 = START + 99 * HOUR_MS + HOUR_MS // 2
    options = {"until": None, "client": client(exchange, "binance", half_past_99)}
    assert hours_of(download(exchange, "binance", "BTC-USDT", tmp_path, **options).path) == list(range(99))
    options["client"] = client(exchange, "binance", half_past_99 + HOUR_MS)
    assert hours_of(download(exchange, "binance", "BTC-USDT", tmp_path, **options).path) == list(range(100))


def test_emptiness_counts_as_an_answer_only_after_a_day(exchange: Exchange, tmp_path: Path) -> None:
    """An exchange may publish late: the second run asks again from the last candle, or from the first unsure hour."""
    for hours, again_from in ((3, HOURS), (400, HOURS + 300)):
        options = {"until": None, "client": client(exchange, "coinbase", START + (HOURS + hours) * HOUR_MS)}
        download(exchange, "coinbase", "BTC-USD", tmp_path / str(hours), **options)
        exchange.asked.clear()
        download(exchange, "coinbase", "BTC-USD", tmp_path / str(hours), **options)
        (question,) = exchange.asked
        assert f"start={START // 1000 + 3600 * again_from}" in question


def test_a_listing_after_since_is_no_error_and_no_candles_at_all_is_one(exchange: Exchange, tmp_path: Path) -> None:
    exchange.listed_from = 1_500
    assert hours_of(download(exchange, "coinbase", "BTC-USD", tmp_path).path)[0] == 1_500
    with pytest.raises(DataError, match="has no 1h candles of BTC-USD since 2024-01-01"):
        download(exchange, "coinbase", "BTC-USD", tmp_path / "none", until="2024-01-20")
    assert not (tmp_path / "none").exists()


def test_wrong_names_and_dates_say_what_would_be_right(exchange: Exchange, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="binance does not trade BTC-USD; expected one like BTC-USDT"):
        download(exchange, "binance", "BTC-USD", tmp_path)
    with pytest.raises(ConfigError, match="ccxt knows no exchange 'coinbas'; expected one like coinbase"):
        fetch("BTC-USD", SINCE, exchange="coinbas", out=tmp_path)
    with pytest.raises(ConfigError, match="'last year' is no date"):
        download(exchange, "coinbase", "BTC-USD", tmp_path, since="last year")
    with pytest.raises(ConfigError, match="nothing lies between"):
        download(exchange, "coinbase", "BTC-USD", tmp_path, since=UNTIL, until=SINCE)
    with pytest.raises(ConfigError, match="coinbase has no 7m candles"):
        download(exchange, "coinbase", "BTC-USD", tmp_path, timeframe="7m")
    with pytest.raises(DataError, match="kraken serves only its latest 720"):
        fetch("BTC-USD", SINCE, exchange="kraken", out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_origin_is_never_overwritten(exchange: Exchange, tmp_path: Path) -> None:
    theirs = tmp_path / "coinbase" / "BTC-USD_1h.parquet"
    theirs.parent.mkdir()
    theirs.write_bytes(b"mine")
    with pytest.raises(DataError, match="cannot be read"):
        download(exchange, "coinbase", "BTC-USD", tmp_path)
    assert theirs.read_bytes() == b"mine"
    write_bars(bars_at([0, 1, 2]), theirs)
    with pytest.raises(DataError, match="is not a download from coinbase"):
        download(exchange, "coinbase", "BTC-USD", tmp_path)
    assert len(load_bars(theirs)) == 3
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageError):
        download(exchange, "coinbase", "BTC-USD", tmp_path / "file")


def test_the_command_downloads_prints_one_json_document_and_the_next_step(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "open_exchange", lambda name: client(exchange, name))
    app = make_group("himari")
    data_cli.register(app)
    words = ["data", "fetch", "BTC-USD", "--since", SINCE, "--until", UNTIL, "--out", str(tmp_path)]
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["rows"] == HOURS - len(GAP)
    again = CliRunner().invoke(app, words)
    assert f"next: himari data audit {tmp_path}/coinbase/BTC-USD_1h.parquet" in again.stdout
    assert "450 missing at the exchange (left as gaps)" in again.stdout


def test_the_client_is_the_real_one() -> None:
    assert isinstance(open_exchange("coinbase"), ccxt.coinbase)
