"""Bars in JSON: lists of lists, of objects or of columns, wrapped by an exchange's answer or not.

columns_of_json(source, text)  -> Raw
"""

from __future__ import annotations

import json
from typing import Any

from himari_rl.data.layouts import Raw
from himari_rl.errors import DataError

_NAMES = {"open", "close", "o", "c", "high", "h"}


def columns_of_json(source: str, text: str) -> Raw:
    """The columns of a JSON document, or of a line of JSON each.

    Raises:
        DataError: no list of bars in it, or several.
        ValueError: no JSON.
    """
    try:
        document = json.loads(text)
    except json.JSONDecodeError:
        document = [json.loads(line) for line in text.splitlines() if line.strip()]
        if len(document) < 2:
            raise
    symbols: list[str] = []
    rows, names = _rows(source, document, symbols)
    width = max((len(row) for row in rows), default=0)
    short = next((number for number, row in enumerate(rows, 1) if len(row) != width), None)
    if short is not None:
        found = f"{source} row {short} has {len(rows[short - 1])} cells, not {width}"
        raise DataError(found, "whole rows", "complete or drop it")
    if not rows or not width:
        raise DataError(f"{source} has no bars", "rows of bars", "")
    columns = tuple(_column([row[place] for row in rows]) for place in range(width))
    headed = names is not None
    return Raw(
        names=tuple(names or [f"c{place}" for place in range(width)]),
        columns=columns,
        headed=headed,
        notes=("JSON",),
        symbol=symbols[-1] if symbols else None,
    )


def _rows(source: str, node: Any, symbols: list[str]) -> tuple[list[list[Any]], list[str] | None]:
    """The rows of cells under a node, and the columns' names where it tells them."""
    if isinstance(node, list) and node and all(isinstance(row, list) for row in node):
        return node, None
    if isinstance(node, list) and node and all(isinstance(row, dict) for row in node):
        names = list(dict.fromkeys(str(name) for row in node for name in row))
        return [[row.get(name) for name in names] for row in node], names
    if isinstance(node, dict):
        return _unwrapped(source, node, symbols)
    raise DataError(f"{source} is JSON without bars", "a list of bars", "for example ccxt's fetch_ohlcv as it comes")


def _unwrapped(source: str, node: dict[str, Any], symbols: list[str]) -> tuple[list[list[Any]], list[str] | None]:
    if isinstance(node.get("columns"), list) and isinstance(node.get("data"), list):  # pandas, orient="split"
        names, index = [str(name) for name in node["columns"]], node.get("index") or []
        if len(index) == len(node["data"]) and len(index):
            return [[key, *row] for key, row in zip(index, node["data"], strict=True)], ["index", *names]
        return node["data"], names
    values = list(node.values())
    same = {len(value) for value in values if isinstance(value, list | dict)}
    if _NAMES & {name.lower() for name in node} and len(same) == 1:
        columns = {name: value for name, value in node.items() if isinstance(value, list | dict)}
        if all(isinstance(value, list) for value in columns.values()):
            return [list(row) for row in zip(*columns.values(), strict=True)], list(columns)
        keys = list(next(iter(columns.values())))  # pandas, orient="columns": {"open": {"0": 1.0, ...}}
        if all(isinstance(value, dict) and list(value) == keys for value in columns.values()):
            rows = [[key, *(value[key] for value in columns.values())] for key in keys]
            return rows, ["index", *columns]
    if values and all(isinstance(value, dict) and _NAMES & {str(n).lower() for n in value} for value in values):
        bars, inside = _rows(source, values, symbols)  # pandas, orient="index"
        return [[key, *row] for key, row in zip(node, bars, strict=True)], ["index", *(inside or [])]
    inner = {name: value for name, value in node.items() if isinstance(value, list | dict) and value}
    if len(inner) > 1:
        lists = {name: value for name, value in inner.items() if isinstance(value, list)}
        inner = {name: value for name, value in lists.items() if isinstance(value[0], list | dict)} or inner
    if len(inner) != 1:
        found = (
            f"{source} holds {len(inner)} lists ({', '.join(list(inner)[:4])})" if inner else f"{source} has no bars"
        )
        raise DataError(found, "the bars of one symbol", "write each into its own file")
    ((name, value),) = inner.items()
    if any(mark in name for mark in "/-") or name.isupper():
        symbols.append(name.replace("/", "-"))
    return _rows(source, value, symbols)


def _column(cells: list[Any]) -> Any:
    """A pyarrow column; cells of several types become text, as a CSV file would have them."""
    import pyarrow as pa

    if all(isinstance(cell, float) for cell in cells) or all(type(cell) is int for cell in cells):
        try:
            return pa.chunked_array([pa.array(cells)])
        except (pa.ArrowInvalid, OverflowError):
            pass
    return pa.chunked_array([pa.array(["" if cell is None else str(cell) for cell in cells])])
