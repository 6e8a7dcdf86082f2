"""Bars written in other people's layouts: small writers, whose truth is known because it was written."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather as pf
import pyarrow.parquet as pq
import pytest

from helpers.data import HEADER, START
from himari_rl.data.audit import audit_files
from himari_rl.data.sources import load_bars
from himari_rl.errors import DataError
from himari_rl.schema import HOUR_MS, Bars

NAMES = ("open", "high", "low", "close", "volume")


def market(rows: int = 400, *, start: int = START, step: int = HOUR_MS, seed: int = 0, price: float = 42_000.0) -> Bars:
    """A market that never closes, as Binance's: every open is the close before it, prices in cents."""
    rng = np.random.default_rng(seed)
    digits = 2 if price > 10 else 5
    close = np.round(price * np.exp(np.cumsum(0.004 * rng.standard_normal(rows))), digits)
    opened = np.r_[np.round(price, digits), close[:-1]]
    wick = price * 0.002 * rng.random((2, rows))
    high = np.round(np.maximum(opened, close) + wick[0], digits)
    low = np.round(np.minimum(opened, close) - wick[1], digits)
    return Bars(
        symbol="BTC-USDT",
        timestamp=start + step * np.arange(rows, dtype=np.int64),
        open=opened,
        high=np.maximum(high, np.maximum(opened, close)),
        low=np.minimum(low, np.minimum(opened, close)),
        close=close,
        volume=np.round(1000 * rng.random(rows) + 1.25, 3),
        interval_ms=step,
        source="market",
    )


def frame(bars: Bars) -> pd.DataFrame:
    """The columns, with `t` in ms and `when` in pandas' UTC."""
    columns = {"t": bars.timestamp} | {name: getattr(bars, name) for name in NAMES}
    return pd.DataFrame(columns).assign(when=pd.to_datetime(bars.timestamp, unit="ms", utc=True))


def text(path: Path, content: str, encoding: str = "utf-8") -> Path:
    """A text file, packed where its name ends so."""
    data = content.encode(encoding)
    path.write_bytes(gzip.compress(data, mtime=0) if path.name.endswith(".gz") else data)
    return path


def lines(times: list[object], bars: Bars, order: tuple[str, ...] = NAMES, mark: str = ",") -> list[str]:
    """A row of text for each bar."""
    columns = [getattr(bars, name).tolist() for name in order]
    return [mark.join([str(t), *map(repr, row)]) for t, *row in zip(times, *columns, strict=True)]


def iso(bars: Bars, form: str = "%Y-%m-%d %H:%M:%S") -> list[object]:
    return list(pd.to_datetime(bars.timestamp, unit="ms").strftime(form))


def local(bars: Bars, zone: str, form: str = "%Y-%m-%d %H:%M") -> list[object]:
    """What the clock on the wall shows."""
    return list(pd.to_datetime(bars.timestamp, unit="ms", utc=True).tz_convert(ZoneInfo(zone)).strftime(form))


def headed(header: str, rows: list[str]) -> str:
    return "\n".join([header, *rows]) + "\n"


def klines(bars: Bars, unit: int = 1, mark: str = ",") -> list[str]:
    """Binance Vision's twelve columns; `unit` is 1 for ms and 1000 for us."""
    made = []
    for row in range(len(bars)):
        opened = int(bars.timestamp[row])
        prices = [f"{getattr(bars, name)[row]:.8f}" for name in NAMES]
        value = f"{bars.volume[row] * bars.close[row]:.8f}"
        closed = (opened + bars.interval_ms) * unit - 1
        made.append(mark.join([str(opened * unit), *prices, str(closed), value, "1000", "1.5", "2.5", "0"]))
    return made


def _comma(number: float) -> str:
    return repr(number).replace(".", ",")


def _german(bars: Bars, times: list[object]) -> list[str]:
    columns = [getattr(bars, name).tolist() for name in NAMES]
    return [";".join([str(t), *map(_comma, row)]) for t, *row in zip(times, *columns, strict=True)]


def _grouped(bars: Bars) -> list[str]:
    columns = [getattr(bars, name).tolist() for name in NAMES[:4]]
    rows = zip(iso(bars), *columns, bars.volume.tolist(), strict=True)
    return [",".join([str(t), *(f'"{p:,.2f}"' for p in prices), repr(volume)]) for t, *prices, volume in rows]


def _polygon(bars: Bars, folder: Path) -> Path:
    rows = [
        f"{v!r},{c!r},{o!r},{c!r},{h!r},{low!r},{t},7"
        for t, o, h, low, c, v in zip(
            bars.timestamp.tolist(), *(getattr(bars, name).tolist() for name in NAMES), strict=True
        )
    ]
    return text(folder / "BTC-USDT_1h.csv.gz", headed("v,vw,o,c,h,l,t,n", rows))


def _mt5(bars: Bars, folder: Path) -> Path:
    days, hours = iso(bars, "%Y.%m.%d"), iso(bars, "%H:%M:%S")
    rows = lines([f"{d}\t{h}" for d, h in zip(days, hours, strict=True)], bars, mark="\t")
    header = "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>"
    return text(folder / "BTC-USDT_1h.csv", headed(header, [f"{row}\t0\t15" for row in rows]))


def _yfinance(bars: Bars, folder: Path) -> Path:
    rows = lines(iso(bars, "%Y-%m-%d %H:%M:%S+00:00"), bars, ("close", "high", "low", "open", "volume"))
    head = "Price,Close,High,Low,Open,Volume\nTicker" + ",BTC-USDT" * 5 + "\nDatetime,,,,,"
    return text(folder / "yf_1h.csv", headed(head, rows))


def _multiindex(bars: Bars, folder: Path) -> Path:
    made = frame(bars).set_index("when")[list(NAMES)].rename_axis("Date")
    made.columns = pd.MultiIndex.from_tuples([(name.title(), "BTC-USDT") for name in NAMES])
    made.to_parquet(folder / "yf_1h.parquet")
    return folder / "yf_1h.parquet"


def _alpaca(bars: Bars, folder: Path) -> Path:
    rows = [f"BTC/USDT,{row},12,{c!r}" for row, c in zip(lines(iso(bars, "%Y-%m-%d %H:%M:%S+00:00"), bars),
                                                         bars.close.tolist(), strict=True)]  # fmt: skip
    header = "symbol,timestamp,open,high,low,close,volume,trade_count,vwap"
    return text(folder / "alpaca_1h.csv", headed(header, rows))


def _table(bars: Bars, name: str, times: pa.Array) -> pa.Table:
    return pa.table({name: times} | {column: pa.array(getattr(bars, column)) for column in NAMES})


def _feather(bars: Bars, folder: Path) -> Path:
    times = pa.array(bars.timestamp, pa.timestamp("ms", tz="UTC"))
    path = folder / "BTC_USDT-1h.feather"
    pf.write_feather(_table(bars, "date", times), path, compression="lz4")
    return path


def _parquet(bars: Bars, folder: Path) -> Path:
    path = folder / "BTC-USDT_1h.parquet"
    pq.write_table(_table(bars, "time", pa.array(bars.timestamp * 1_000_000)), path)
    return path


def _index(bars: Bars, folder: Path) -> Path:
    path = folder / "BTC-USDT_1h.parquet"
    frame(bars).set_index("when")[list(NAMES)].rename_axis(None).to_parquet(path)
    return path


def _json(bars: Bars, folder: Path, order: tuple[str, ...], *, back: bool = False, words: bool = False) -> Path:
    columns = [getattr(bars, name).tolist() for name in order]
    rows = [[t, *map(str, row)] if words else [t, *row] for t, *row in
            zip((bars.timestamp // (1000 if back else 1)).tolist(), *columns, strict=True)]  # fmt: skip
    return text(folder / "BTC-USDT_1h.json.gz", json.dumps(rows[::-1] if back else rows))


def _objects(bars: Bars, folder: Path) -> Path:
    keys = ("t", "o", "h", "l", "c", "v")
    rows = [dict(zip(keys, row, strict=True)) for row in
            zip(bars.timestamp.tolist(), *(getattr(bars, name).tolist() for name in NAMES), strict=True)]  # fmt: skip
    return text(folder / "BTC-USDT_1h.json", json.dumps({"ticker": "X", "results": rows, "status": "OK"}))


def _pandas_json(bars: Bars, folder: Path) -> Path:
    path = folder / "BTC-USDT_1h.json"
    made = frame(bars).rename(columns={"t": "timestamp"}).drop(columns="when")
    made.to_json(path, double_precision=15)
    return path


def _csv(name: str, header: str, times: Callable[[Bars], list[object]]) -> Callable[[Bars, Path], Path]:
    def write(bars: Bars, folder: Path) -> Path:
        mark = "\t" if "\t" in header else ";" if ";" in header else "|" if "|" in header else ","
        return text(folder / name, headed(header, lines(times(bars), bars, mark=mark)))

    return write


def _ms(bars: Bars) -> list[object]:
    return list(bars.timestamp.tolist())


def same(found: Bars, truth: Bars) -> bool:
    """The same times, prices and volumes, to the last bit."""
    return (
        len(found) == len(truth)
        and bool((found.timestamp == truth.timestamp).all())
        and all(bool((getattr(found, name) == getattr(truth, name)).all()) for name in NAMES)
    )


def write(folder: Path, rows: list[str], header: str = HEADER, name: str = "BTC-USDT_x.csv") -> Path:
    return text(folder / name, headed(header, rows))


def refused(path: Path, *words: str) -> DataError:
    """The refusal, the same in the audit."""
    with pytest.raises(DataError) as caught:
        load_bars(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    (report,) = audit_files(path)
    assert not report.usable
    assert report.problems[0] == message
    return caught.value


def at(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)


# Every layout that is read: what is written comes back, to the last bit.
READ: dict[str, Callable[[Bars, Path], Path]] = {
    "Binance, ms": lambda b, f: text(f / "BTCUSDT-1h-2024-12.csv", "\n".join(klines(b)) + "\n"),
    "Binance, us": lambda b, f: text(f / "BTCUSDT-1h-2025-01.csv.gz", "\n".join(klines(b, 1000)) + "\n"),
    "Binance, headed": lambda b, f: text(
        f / "k_1h.csv",
        headed(
            "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,"
            "taker_buy_quote_volume,ignore",
            klines(b, 1000),
        ),
    ),
    "ccxt, no header": lambda b, f: text(f / "BTC_1h.csv", "\n".join(lines(_ms(b), b)) + "\n"),
    "ccxt JSON": lambda b, f: _json(b, f, NAMES),
    "exchange JSON, words": lambda b, f: _json(b, f, NAMES, words=True),
    "Coinbase JSON": lambda b, f: _json(b, f, ("low", "high", "open", "close", "volume"), back=True),
    "Bitfinex JSON": lambda b, f: _json(b, f, ("open", "close", "high", "low", "volume"), back=True),
    "polygon JSON": _objects,
    "polygon": _polygon,
    "pandas JSON": _pandas_json,
    "MetaTrader": _mt5,
    "yfinance rows": _yfinance,
    "yfinance pairs": _multiindex,
    "Alpaca": _alpaca,
    "feather": _feather,
    "parquet, ns": _parquet,
    "pandas index": _index,
    "semicolons": lambda b, f: text(f / "x_1h.csv", headed("timestamp;" + ";".join(NAMES), _german(b, iso(b)))),
    "German dates": lambda b, f: text(
        f / "x_1h.txt", headed("Date;Open;High;Low;Close;Volume", _german(b, iso(b, "%d.%m.%Y %H:%M")))
    ),
    "US dates": _csv("x_1h.csv", "Date,Open,High,Low,Close,Volume", lambda b: iso(b, "%m/%d/%Y %H:%M")),
    "UK dates": _csv("x_1h.csv", "Date,Open,High,Low,Close,Volume", lambda b: iso(b, "%d/%m/%Y %H:%M")),
    "US halves": _csv("x_1h.csv", "Date,Open,High,Low,Close,Volume", lambda b: iso(b, "%m/%d/%Y %I:%M %p")),
    "Japanese dates": _csv("x_1h.csv", "time,open,high,low,close,vol", lambda b: iso(b, "%Y/%m/%d %H:%M")),
    "digits": _csv("x_1h.csv", "time,open,high,low,close,vol", lambda b: iso(b, "%Y%m%d%H%M%S")),
    "tabs": _csv("x_1h.tsv", "open_time\topen\thigh\tlow\tclose\tvolume", _ms),
    "bars": _csv("x_1h.txt", "ts|o|h|l|c|v", _ms),
    "UTF-16": lambda b, f: text(
        f / "x_1h.csv.gz", headed("timestamp," + ",".join(NAMES), lines(iso(b), b)), encoding="utf-16"
    ),
    "byte order mark": lambda b, f: text(
        f / "x_1h.csv", headed("Time,Open,High,Low,Close,Volume", lines(iso(b), b)), encoding="utf-8-sig"
    ),
    "comment lines": lambda b, f: text(
        f / "x_1h.csv", "# made by me\n# UTC\n" + headed("timestamp," + ",".join(NAMES), lines(iso(b), b))
    ),
    "header as comment": lambda b, f: text(f / "x_1h.csv", headed("#t,o,h,l,c,v", lines(_ms(b), b))),
    "sep line": lambda b, f: text(f / "x_1h.csv", "sep=;\n" + headed("time;" + ";".join(NAMES), _german(b, iso(b)))),
    "CRLF": lambda b, f: text(
        f / "x_1h.csv", headed("timestamp," + ",".join(NAMES), lines(iso(b), b)).replace("\n", "\r\n")
    ),
    "empty rows": lambda b, f: text(
        f / "x_1h.csv", headed("timestamp," + ",".join(NAMES), [*lines(iso(b), b), ",,,,,", ",,,,,", ""])
    ),
    "thousands": lambda b, f: text(f / "x_1h.csv", headed("timestamp," + ",".join(NAMES), _grouped(b))),
    "close stamped": lambda b, f: text(
        f / "x_1h.csv",
        headed("timestamp," + ",".join(NAMES), lines((b.timestamp + b.interval_ms - 1).tolist(), b)),
    ),
    "close_time alone": lambda b, f: text(
        f / "x_1h.csv", headed("close_time," + ",".join(NAMES), lines((b.timestamp + b.interval_ms).tolist(), b))
    ),
    "offsets": _csv(
        "x_1h.csv",
        "timestamp,open,high,low,close,volume",
        lambda b: [str(t) for t in frame(b)["when"].dt.tz_convert(ZoneInfo("Europe/Berlin"))],
    ),
    "float seconds": _csv("x_1h.csv", "timestamp,open,high,low,close,volume", lambda b: (b.timestamp / 1000).tolist()),
}
