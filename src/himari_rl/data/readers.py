"""Bytes become columns: CSV and its cousins, JSON, Feather, Parquet. Which column is which is layouts.py's question.

    read_raw(file)  -> Raw     the columns as pyarrow holds them, and what the file was taken for

Text is sniffed from its first 64 KiB: encoding, delimiter, comment lines, header lines. The rest is pyarrow's, so
that millions of minutes take seconds.
"""

from __future__ import annotations

import ast
import codecs
import csv
import gzip
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from himari_rl.data.json_bars import columns_of_json
from himari_rl.data.layouts import ALIASES, Raw
from himari_rl.data.time_columns import CLOSE_TIMES, INDEX_TIMES, LOCAL_TIMES, OPEN_TIMES, PLAIN_TIMES, plain_name
from himari_rl.errors import DataError
from himari_rl.schema import PRICES

TEXT = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz")
JSON = (".json", ".json.gz", ".jsonl", ".jsonl.gz", ".ndjson")
FEATHER = (".feather", ".arrow")
PARQUET = (".parquet", ".pq")
SUFFIXES = (".csv", ".csv.gz", ".parquet", ".pq", *TEXT[2:], *JSON, *FEATHER)
ALSO_OTHERS = (*JSON, ".txt", ".txt.gz")  # a folder's reports, manifests and notes end so, too
CURES = {
    ".zip": "unzip it",
    ".xlsx": "save it as CSV UTF-8",
    ".xls": "save it as CSV UTF-8",
    ".pkl": "DataFrame.to_parquet writes what can be read",
    ".h5": "DataFrame.to_parquet writes what can be read",
}
_SNIFF = 65_536
_LOOKED_AT = 20  # lines above which a header must stand
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_KNOWN = {
    *PRICES, "volume", "symbol", *(alias for group in ALIASES.values() for alias in group),
    *PLAIN_TIMES, *OPEN_TIMES, *CLOSE_TIMES, *LOCAL_TIMES, *(name for name in INDEX_TIMES if name),
    "<open>", "<high>", "<low>", "<close>", "<vol>", "<tickvol>",
}  # fmt: skip
_VALUE = re.compile(r"[+-]?[$€£]?[\d.,'’  ]*\d(?:[eE][+-]?\d+)?")
_WHEN = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}.*|\d{8,19}(?:\.\d+)?|\d\.\d+[eE]\+?\d+|\d{5}(?:\.\d+)?")


@dataclass(frozen=True, kw_only=True)
class _Form:
    """What the first lines of a text tell."""

    encoding: str
    delimiter: str
    names: list[str]  # of the header, or none
    width: int
    skip: int  # lines before the first row of bars
    notes: list[str]
    said: list[str]  # what was left out, a line each
    symbol: str | None = None


def kind_of(file: Path) -> str:
    """text, JSON, Feather or Parquet, by the name's ending."""
    name = file.name.lower()
    kinds = (("Parquet", PARQUET), ("Feather", FEATHER), ("JSON", JSON))
    return next((kind for kind, endings in kinds if name.endswith(endings)), "text")


def read_raw(file: Path) -> Raw:
    """One file's columns.

    Raises:
        DataError: not readable as its kind, or a line that is no row.
    """
    kind = kind_of(file)
    if kind in ("Parquet", "Feather"):
        return _read_arrow(file, kind)
    return _read_json(file) if kind == "JSON" else _read_text(file)


def unreadable(file: Path, kind: str, error: BaseException | str) -> DataError:
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    return DataError(f"{file} cannot be read as {kind} ({reason})", "a whole file", "download or export it again")


def _read_arrow(file: Path, kind: str) -> Raw:
    import pyarrow as pa
    import pyarrow.feather as pf
    import pyarrow.parquet as pq

    try:
        if kind == "Feather":
            table = pf.read_table(file, memory_map=False)
        else:
            with pq.ParquetFile(file, page_checksum_verification=True) as reader:
                table = reader.read()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise unreadable(file, kind, error) from error
    names, ticker = one_ticker(str(file), table.column_names)
    columns = tuple(table.columns)
    notes = () if ticker is None else (f"the columns of {ticker}",)
    return Raw(names=tuple(names), columns=columns, symbol=ticker, notes=notes)


def one_ticker(source: str, names: Sequence[object]) -> tuple[list[str], str | None]:
    """Plain names of yfinance's pairs ("Open", "BTC-USD"), and the ticker; other names come back as they are.

    Raises:
        DataError: the pairs are of several tickers.
    """
    pairs = [_pair(name) for name in names]
    found = [pair for pair in pairs if pair is not None]
    if len(found) < 4:
        return [str(name) for name in names], None
    inner = {first.lower() for first, _ in found} & {*PRICES}
    place = 0 if inner else 1
    tickers = sorted({pair[1 - place] for pair in found if pair[1 - place]})
    if len(tickers) > 1:
        cure = "yfinance: download(TICKER, multi_level_index=False), one ticker at a time; pandas: frame.xs(TICKER, "
        raise DataError(
            f"{source} holds {len(tickers)} tickers ({', '.join(tickers[:4])})",
            "one symbol",
            f"{cure}axis=1, level={1 - place})",
        )
    plain = [
        str(name) if pair is None else pair[place] or pair[1 - place] for name, pair in zip(names, pairs, strict=True)
    ]
    return plain, tickers[0] if tickers else None


def _pair(name: object) -> tuple[str, str] | None:
    if isinstance(name, str) and name.startswith("('"):
        try:
            name = ast.literal_eval(name)
        except (ValueError, SyntaxError):
            return None
    return (str(name[0]), str(name[1])) if isinstance(name, tuple) and len(name) == 2 else None


def _read_json(file: Path) -> Raw:
    opener = gzip.open if file.name.lower().endswith(".gz") else open
    try:
        with opener(file, "rt", encoding="utf-8-sig") as text:
            return columns_of_json(str(file), text.read())
    except (OSError, EOFError, ValueError, RecursionError) as error:
        raise unreadable(file, "JSON", error) from error


def _read_text(file: Path) -> Raw:
    import pyarrow as pa
    import pyarrow.csv as pc

    wrong: list[Any] = []

    def keep(row: Any) -> str:
        wrong.append(row)
        return "error"

    opener = gzip.open if file.name.lower().endswith(".gz") else open
    try:
        with opener(file, "rb") as stream:
            form = _sniff(file, stream.read(_SNIFF))
        names = [f"c{place}" for place in range(form.width)]
        table = pc.read_csv(
            file,
            read_options=pc.ReadOptions(
                use_threads=False, column_names=names, skip_rows=form.skip, encoding=form.encoding
            ),
            parse_options=pc.ParseOptions(delimiter=form.delimiter, invalid_row_handler=keep),
            convert_options=pc.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
    except (pa.ArrowException, OSError, EOFError, ValueError, csv.Error) as error:
        if wrong:
            raise _wrong_row(file, form, wrong[0]) from error
        if "Empty CSV" in str(error) or "Not enough" in str(error):
            raise DataError(f"{file} has a header but no rows", "rows of bars", "") from error
        raise unreadable(file, "CSV", error) from error
    table, empty = _without_empty_end(table)
    said = [*form.said, f"{empty} empty row{'s' * (empty > 1)} at the end left out"] if empty else form.said
    return Raw(
        names=tuple(form.names or names),
        columns=tuple(table.columns),
        headed=bool(form.names),
        notes=tuple(form.notes),
        said=tuple(said),
        symbol=form.symbol,
        delimiter=form.delimiter,
    )


def _wrong_row(file: Path, form: _Form, row: Any) -> DataError:
    text = " ".join(str(row.text).split())[:60]
    what = f"has {row.actual_columns} cells, not {row.expected_columns}"
    line = f"row {row.number - form.skip}" if row.number is not None else "one row"
    if text.startswith(("#", "//")):
        return DataError(f"{file} cannot be read as CSV ({line} is a comment: {text!r})", "bars", "delete that line")
    return DataError(f"{file} cannot be read as CSV ({line} {what}: {text!r})", "whole rows", "complete or delete it")


def _without_empty_end(table: Any) -> tuple[Any, int]:
    """The table without rows of nothing but delimiters at its end, as Excel writes them."""
    rows = table.num_rows
    while rows and not any(str(column[rows - 1]).strip() for column in table.columns):
        rows -= 1
    return table.slice(0, rows), table.num_rows - rows


def _sniff(file: Path, head: bytes) -> _Form:
    """Encoding, delimiter and header of a text, from its first bytes.

    Raises:
        DataError: a line above the header that is no comment.
    """
    encoding = next((name for mark, name in _MARKS.items() if head.startswith(mark)), "")
    notes = ["UTF-16"] if encoding == "utf-16" else []
    if not encoding and head[1:40:2].count(0) > 10:
        encoding, notes = "utf-16-le", ["UTF-16"]
    elif not encoding and head[0:40:2].count(0) > 10:
        encoding, notes = "utf-16-be", ["UTF-16"]
    try:
        text = codecs.getincrementaldecoder(encoding or "utf-8")().decode(head)
    except UnicodeDecodeError:
        encoding, text, notes = "cp1252", head.decode("cp1252"), ["Windows-1252"]
    whole = len(head) < _SNIFF
    lines = text.splitlines() if whole else text.splitlines()[:-1] or [text]
    if encoding.startswith("utf-16") and (len(lines) < 2 or "\x00" in text):
        raise ValueError("no line of text")
    skip = 0
    while skip < min(len(lines), _LOOKED_AT) and _is_comment(lines, skip):
        skip += 1
    left_out = [f"{skip} comment line{'s' * (skip > 1)} above the header left out"] if skip else []
    rest = lines[skip : skip + _LOOKED_AT]
    told = re.fullmatch(r"sep=(.)", rest[0].strip("\r\n").lower()) if rest else None
    if told:
        skip, rest = skip + 1, rest[1:]
    delimiter = _delimiter(rest) if not told or told[1] not in _DELIMITERS else told[1]
    if delimiter != ",":
        notes.append(f"delimited by {_DELIMITERS[delimiter]}")
    rows = list(csv.reader(io.StringIO("\n".join(rest[:6])), delimiter=delimiter)) if rest else []
    header = rows[0] if rows else []
    encoding = "utf-8" if encoding in ("", "utf-8-sig") else encoding
    if len(rows) > 1 and header and header[0].startswith("#") and _is_values(rows[1]):
        header = [header[0].lstrip("# "), *header[1:]]  # the header itself is a comment
    form = _Form(
        encoding=encoding, delimiter=delimiter, names=[], width=len(header), skip=skip, notes=notes, said=left_out
    )  # fmt: skip
    if _is_values(header):
        return form
    if len(rows) > 2 and (pairs := _header_rows(rows)) is not None:
        count, names = pairs
        plain, ticker = one_ticker(str(file), names)
        notes.append(f"yfinance's {count} header rows, of {ticker}")
        return replace(form, names=plain, width=len(plain), skip=skip + count, symbol=ticker)
    if rows[1:] and all(len(row) == len(header) + 1 and not row[-1].strip() for row in rows[1:]):
        header = [*header, ""]  # every row ends in a delimiter, the header does not
        form = replace(form, width=len(header))
    _refuse_preamble(file, lines, skip, delimiter)
    return replace(form, names=header, skip=skip + 1)


def _is_comment(lines: list[str], at: int) -> bool:
    line = lines[at].strip()
    if line.startswith("#") and at + 1 < len(lines):  # a header may begin with #: then what follows has its cells
        following = lines[at + 1]
        for mark in _DELIMITERS:
            if line.count(mark) >= 4 and line.count(mark) == following.count(mark) and _known(line, mark) >= 4:
                return False
    return not line or line.startswith(("#", "//", "http://", "https://"))


def _known(line: str, delimiter: str) -> int:
    cells = next(csv.reader([line.lstrip("# ")], delimiter=delimiter), [])
    return sum(plain_name(cell) in _KNOWN for cell in cells)


def _delimiter(lines: list[str]) -> str:
    """The one that makes the most known names, or the most numbers where there is no header."""

    def score(mark: str) -> tuple[int, int]:
        cells = [next(csv.reader([line], delimiter=mark), []) for line in lines[:3]]
        names = max((sum(plain_name(c) in _KNOWN for c in row) for row in cells), default=0)
        values = max((sum(bool(_VALUE.fullmatch(c.strip())) for c in row) for row in cells[:1]), default=0)
        return names + values if max((len(row) for row in cells), default=0) > 1 else 0, -list(_DELIMITERS).index(mark)

    return max(_DELIMITERS, key=score)


def _is_values(cells: list[str]) -> bool:
    """Whether a line is a row of bars: a time, and at least four numbers."""
    tidy = [cell.strip() for cell in cells]
    numbers = sum(bool(_VALUE.fullmatch(cell)) for cell in tidy)
    return len(tidy) >= 5 and bool(_WHEN.fullmatch(tidy[0])) and numbers >= 4


def _header_rows(rows: list[list[str]]) -> tuple[int, list[tuple[str, str]]] | None:
    """yfinance's header rows: prices, tickers, and in most versions one with the index's name alone."""
    first, second, third = rows[0], rows[1], rows[2]
    filled = [cell.strip() for cell in second if cell.strip()]
    if len(first) != len(second) or not filled or any(_VALUE.fullmatch(cell) for cell in filled):
        return None
    known = {cell.strip().lower() for cell in (*first, *second)}
    if not {*PRICES} <= known or _is_values(second):
        return None
    alone = bool(third and third[0].strip()) and not any(cell.strip() for cell in third[1:])
    index = third[0].strip() if alone else "Date"
    pairs = [(index, ""), *zip((c.strip() for c in first[1:]), (c.strip() for c in second[1:]), strict=True)]
    return 2 + alone, pairs


def _refuse_preamble(file: Path, lines: list[str], skip: int, delimiter: str) -> None:
    """A title above the header: named, since nobody can tell what else it is.

    Raises:
        DataError: the first line is no header, and one further down is.
    """
    if _known(lines[skip], delimiter) >= 3 if skip < len(lines) else True:
        return
    for at in range(skip + 1, min(len(lines), skip + _LOOKED_AT)):
        for mark in _DELIMITERS:
            if _known(lines[at], mark) >= 5:
                found = (
                    f"{file} line {skip + 1} is no header ({lines[skip].strip()[:40]!r}): the header is line {at + 1}"
                )
                raise DataError(found, "the header first", "delete the lines before it")
