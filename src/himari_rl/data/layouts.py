"""The layouts that people's files of bars have: one entry each, how it is recognised and what it becomes.

    recognise(source, raw)  -> Named     a file's columns under our names, and in words what it was taken for
    LAYOUTS                              files by the names or the order of their columns
    FORMS                                what any of them may also be (delimiter, dates, clock); docs/data.md lists both

To add a layout, add an entry. A headed one needs the names that tell it from others, and only those of its
columns that the aliases below do not know; a headless one the order of its columns, which must also fit the
prices: of all orders with that many columns exactly one may keep every open and close within low and high.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from himari_rl.data.orders import fitting
from himari_rl.data.time_columns import TIMES, plain_name, time_column
from himari_rl.errors import DataError
from himari_rl.schema import PRICES

# ours: other names of the same thing, in lower case with _ for spaces; the first that a file has is taken
ALIASES: dict[str, tuple[str, ...]] = {
    "open": ("o", "open_price", "price_open", "openprice", "1._open"),
    "high": ("h", "high_price", "price_high", "highprice", "2._high"),
    "low": ("l", "low_price", "price_low", "lowprice", "3._low"),
    "close": ("c", "close_price", "price_close", "closeprice", "4._close", "last", "price"),
    "volume": ("v", "vol", "vol.", "base_volume", "basevolume", "volume_traded", "volumefrom", "5._volume"),
    "symbol": ("ticker", "pair", "tic", "instrument"),
}
_INDEX = ("", "unnamed:_0", "__index_level_0__", "index", "level_0")
_SET_ASIDE = ("ignore", "<spread>")


@dataclass(frozen=True, kw_only=True)
class FileLayout:
    """One layout: a headed one has `names`, a headless one has `order`."""

    name: str
    recognised: str  # in words, for docs/data.md
    names: tuple[str, ...] = ()  # columns that tell it, in lower case; all must be there
    order: tuple[str, ...] = ()  # what stands where, without a header
    renames: Mapping[str, str] = field(default_factory=dict)  # its column: ours, before the aliases


_KLINES = "close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
_OHLCV = ("timestamp", *PRICES, "volume")
LAYOUTS: tuple[FileLayout, ...] = (
    FileLayout(
        name="Binance klines without a header",
        recognised="12 columns, the times in ms or us",
        order=(*_OHLCV, *_KLINES.split(",")),
    ),
    FileLayout(name="ccxt candles", recognised="6 columns: time, open, high, low, close, volume", order=_OHLCV),
    FileLayout(
        name="Coinbase candles",
        recognised="6 columns: time, low, high, open, close, volume",
        order=("timestamp", "low", "high", "open", "close", "volume"),
    ),
    FileLayout(
        name="Bitfinex candles",
        recognised="6 columns: time, open, close, high, low, volume",
        order=("timestamp", "open", "close", "high", "low", "volume"),
    ),
    FileLayout(
        name="KuCoin candles",
        recognised="7 columns: time, open, close, high, low, volume, turnover",
        order=("timestamp", "open", "close", "high", "low", "volume", "turnover"),
    ),
    FileLayout(
        name="Kraken's files, Bybit candles",
        recognised="7 columns: time, open, high, low, close, volume, trades or turnover",
        order=(*_OHLCV, "trades_or_turnover"),
    ),
    FileLayout(
        name="Kraken candles",
        recognised="8 columns: time, open, high, low, close, vwap, volume, count",
        order=("timestamp", *PRICES, "vwap", "volume", "count"),
    ),
    FileLayout(
        name="OKX candles",
        recognised="9 columns: time, open, high, low, close, three volumes, confirm",
        order=(*_OHLCV, "volume_currency", "quote_volume", "confirm"),
    ),
    FileLayout(
        name="Binance klines",
        recognised="columns open_time, open, high, low, close, close_time",
        names=("open_time", "open", "high", "low", "close", "close_time"),
    ),
    FileLayout(
        name="Binance stream klines",
        recognised="columns t, o, h, l, c, v beside T, V, q",
        names=("t", "o", "h", "l", "c", "v", "q"),
    ),
    FileLayout(
        name="polygon.io or Alpaca aggregates",
        recognised="columns v, vw, o, c, h, l, t, n",
        names=("t", "o", "h", "l", "c", "v", "vw"),
    ),
    FileLayout(
        name="polygon.io flat file",
        recognised="columns ticker, window_start, transactions",
        names=("window_start", "transactions", "open"),
    ),
    FileLayout(
        name="Alpaca bars",
        recognised="columns timestamp, open, high, low, close, volume, trade_count, vwap",
        names=("timestamp", "trade_count", "vwap", "open"),
    ),
    FileLayout(
        name="MetaTrader export",
        recognised="columns <DATE>, <TIME>, <OPEN> ...; its volume is <VOL>, or <TICKVOL> where that is all 0",
        names=("<date>", "<open>"),
        renames={"<open>": "open", "<high>": "high", "<low>": "low", "<close>": "close"},
    ),
    FileLayout(
        name="MetaTrader rates",
        recognised="columns time, tick_volume, real_volume",
        names=("time", "tick_volume", "real_volume"),
    ),
    FileLayout(
        name="yfinance download",
        recognised="columns ('Open', 'BTC-USD') or header rows Price, Ticker, Date: of one ticker only",
        names=("price\nticker",),  # readers.py and frames.py make one header of them
    ),
    FileLayout(
        name="CryptoDataDownload",
        recognised="columns unix, date, symbol, Volume BTC, Volume USDT",
        names=("unix", "date", "symbol", "open"),
    ),
    FileLayout(
        name="CoinMarketCap history",
        recognised="columns timeOpen, timeClose, marketCap",
        names=("timeopen", "timeclose", "open"),
    ),
    FileLayout(
        name="CoinAPI history",
        recognised="columns time_period_start, price_open, volume_traded",
        names=("time_period_start", "price_open"),
    ),
)

_US_DATES = "the one that the whole file allows"
# (what it is, what happens): what every layout may be beside
FORMS: tuple[tuple[str, str], ...] = (
    ("another name of the time", f"read: {', '.join(name for name in TIMES if name)}, an index of pandas"),
    ("JSON", "read: lists of lists, of objects or of columns, wrapped or not (ccxt, exchanges, pandas); lines of JSON"),
    ("Feather, Parquet", "read, with the index of pandas"),
    ("tab, semicolon, bar as delimiter", "read"),
    ("decimal comma, thousands", "read: one decimal mark a file; refused where 1,234 could be either"),
    ("UTF-16, Windows-1252, byte order marks", "read"),
    ("comment lines above the header", "left out and said; another line above it or between rows is named: delete it"),
    ("empty rows at the end", "left out and said"),
    ("the newest row first", "read from its end and said, in the layouts above; under our own header: sort the rows"),
    ("dates 1/31/2024, 31.1.2024, 2024.01.31", f"read in {_US_DATES}; refused where it allows both: write ISO 8601"),
    ("Excel's day numbers (45292.0416667)", "read to the second; refused where fewer digits are left"),
    ("times of each bar's close (..59:59.999)", "read at the open that they mean, and said"),
    ("a foreign column twice", "set aside and named; one of ours twice is refused: drop one of them"),
    ("a row that opens late, off the grid", "kept on its grid place, or left out where that is taken or overrun; said"),
    ("minutes without trades left out", "read: they are gaps, and counted"),
    ("several tickers in one frame or file", "refused: one symbol a file; yfinance: multi_level_index=False"),
    (
        "swapped columns",
        "refused where most rows are broken: the order that fits is named, to be written as the header",
    ),
    ("open and close swapped", "refused where each open is the next row's close: swap their names"),
    ("rounded times (1.70407E+12)", "refused: a spreadsheet rounded them; export again with the times as text"),
    ("a grid that is no interval (10,000 s)", "refused: the times were rounded; export again"),
    ("times held as float32", "refused: 32 bits hold a time to 128 s; export again as integers or float64"),
    ("a unit that changes (ms, then us)", "refused, with both units and the row: split the file there"),
    ("local time with clock changes", "refused: an hour twice or lost on the Sunday clocks go back; export in UTC"),
    ("times that jitter by less than a second", "read on their minute, and said"),
    ("a lone gap where clocks go forward", "read, with a line that it looks like local time"),
    ("one time on several rows", "refused: says whether the rows are equal, a bar still open then complete, or others"),
    ("times in 1970", "refused: an epoch read in a wrong unit"),
)


@dataclass(frozen=True, kw_only=True)
class Raw:
    """What a reader found: columns of pyarrow in file order."""

    names: tuple[str, ...]
    columns: tuple[Any, ...]
    headed: bool = True
    notes: tuple[str, ...] = ()  # what the reader took it for
    said: tuple[str, ...] = ()  # what it left out, a line each
    symbol: str | None = None  # where the file's wrapping tells it
    delimiter: str = ","


@dataclass(frozen=True, kw_only=True)
class Named:
    """Columns by our names where they are ours, else by their own in lower case."""

    columns: dict[str, Any]
    notes: tuple[str, ...]
    ignored: tuple[str, ...]  # set aside here
    symbol: str | None
    newest_first: bool = False  # some files of the layout have their newest row first
    stamps_close: bool = False  # the times are each bar's close


def recognise(source: str, raw: Raw) -> Named:
    """The layout of a file, and its columns under our names.

    Raises:
        DataError: one of our columns twice, several tickers, no order or several that fit.
    """
    if not raw.headed:
        return _by_order(source, raw)
    names = [name.strip().lower() for name in raw.names]
    layout = next((entry for entry in LAYOUTS if entry.names and set(entry.names) <= set(names)), None)
    if layout is not None and "t" in layout.names:  # T and V beside t and v: only the small letter is ours
        names = [n if raw.names[i].strip() == n or names.count(n) == 1 else f"{n}_" for i, n in enumerate(names)]
    ours: dict[int, str] = {}
    notes = [layout.name] if layout is not None else []
    for target in (*PRICES, "volume", "symbol", "timestamp"):
        renamed = [alias for alias, name in layout.renames.items() if name == target] if layout else []
        found = _find(source, names, [target, *renamed, *ALIASES.get(target, ())])
        if target == "volume":
            found = _volume(names, raw, notes) if found is None else found
        if found is not None:
            ours[found] = target
    known = {place for place, target in ours.items() if target != "timestamp"}
    moment = time_column(source, names, raw.columns, known)
    if moment.place is not None and ours.get(moment.place) is None:
        ours = {place: target for place, target in ours.items() if target != "timestamp"} | {moment.place: "timestamp"}
    notes += moment.notes
    columns, ignored = {}, []
    twice = {name for place, name in enumerate(names) if place not in ours and names.count(name) > 1}
    for place, name in enumerate(names):
        if place in ours:
            column = moment.column if ours[place] == "timestamp" and moment.column is not None else raw.columns[place]
            columns[ours[place]] = column
        elif name in twice or name in _SET_ASIDE or plain_name(name) in _INDEX or place in moment.aside:
            ignored.append(raw.names[place].strip() or "a column without a name")
        else:
            columns[name] = raw.columns[place]
    if twice:
        notes.append(f"set aside, as they stand there twice: {', '.join(sorted(name or 'no name' for name in twice))}")
    noted = {note.partition(" ")[0] for note in notes}
    aliased = [
        f"{ours[p]} from {raw.names[p].strip() or 'the index'}"
        for p in sorted(ours)
        if names[p] != ours[p] and ours[p] not in noted
    ]
    if layout is None and aliased:
        notes.append(", ".join(aliased))
    return Named(
        columns=columns,
        notes=(*notes, *raw.notes),
        ignored=tuple(dict.fromkeys(ignored)),
        symbol=raw.symbol,
        newest_first=layout is not None,
        stamps_close=moment.stamps_close,
    )


def _find(source: str, names: list[str], wanted: list[str]) -> int | None:
    """The place of the first name of `wanted` that is there.

    Raises:
        DataError: it is there twice.
    """
    tidy = [plain_name(name) for name in names]
    for name in wanted:
        places = [place for place, have in enumerate(names) if have == name]
        places = places or [place for place, have in enumerate(tidy) if have == name]
        if len(places) > 1:
            raise DataError(f"{source} has the column {name} twice", "each column once", "drop one of them")
        if places:
            return places[0]
    return None


def _volume(names: list[str], raw: Raw, notes: list[str]) -> int | None:
    """A volume under a name of its kind: real before ticks, unless it is all zero; volume_(btc) before volume_(usd)."""
    tidy = [plain_name(name) for name in names]
    for real, ticks in (("<vol>", "<tickvol>"), ("real_volume", "tick_volume")):
        if real in tidy or ticks in tidy:
            place = tidy.index(real) if real in tidy else tidy.index(ticks)
            if real in tidy and ticks in tidy:
                import pyarrow.compute as pc

                zero = pc.all(pc.is_in(raw.columns[place].cast("string"), _zeros())).as_py()
                place = tidy.index(ticks) if zero else place
            notes.append(f"volume from {raw.names[place].strip()}; its times are the server's clock, taken as UTC")
            return place
    found = [place for place, name in enumerate(tidy) if name.startswith(("volume_", "volume("))]
    if found:
        notes.append(f"volume from {raw.names[found[0]].strip()}")
    return found[0] if found else None


def _zeros() -> Any:
    import pyarrow as pa

    return pa.array(["0", "0.0", "-0", "0.00"])


def _by_order(source: str, raw: Raw) -> Named:
    """A file without a header: the one known order that the prices fit.

    Raises:
        DataError: no order fits, or several do.
    """
    orders = [layout for layout in LAYOUTS if len(layout.order) == len(raw.columns)]
    cure = "write the header above it: timestamp,open,high,low,close,volume in the order of the columns"
    if not orders:
        found = f"{source} has no header line, and {len(raw.columns)} columns of no known order"
        raise DataError(found, "a header, or a known layout (docs/data.md)", cure)
    fits = [layout for layout in orders if fitting(raw.columns, layout.order)]
    if len(fits) > 1:  # a market without wicks: the usual order, were it taken, might be the wrong one
        listed = " or ".join(f"{layout.name} ({', '.join(layout.order[1:5])})" for layout in fits)
        raise DataError(f"{source} has no header line and may be {listed}", "a header", cure)
    if not fits:
        listed = ", ".join(layout.name for layout in orders)
        found = f"{source} has no header line, and its prices fit no known order of {len(raw.columns)} columns"
        raise DataError(found, f"high and low around open and close as in {listed}", cure)
    (layout,) = fits
    columns = dict(zip(layout.order, raw.columns, strict=True))
    aside = [name for name in ("close_time", "ignore") if name in layout.order]
    columns = {name: column for name, column in columns.items() if name not in aside}
    return Named(
        columns=columns,
        notes=(layout.name, *raw.notes),
        ignored=tuple(aside),
        symbol=raw.symbol,
        newest_first=True,
    )


def table_lines() -> list[str]:
    """The tables of docs/data.md."""
    lines = ["| layout | recognised by |", "|---|---|"]
    lines += [f"| {layout.name} | {layout.recognised} |".replace("<", "&lt;") for layout in LAYOUTS]
    lines += ["", "| what a file may also be | what happens |", "|---|---|"]
    return lines + [f"| {what} | {then} |" for what, then in FORMS]
