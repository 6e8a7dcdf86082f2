"""The live page of runner and server: one HTML document that asks nothing of anybody, readable at 400 pixels.

No script, no font, no image from elsewhere; its own content security policy forbids all of them. It reloads itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

RELOAD_S = 15
POINTS = 400
"""Of a curve."""
LONG = 20
"""Characters of a cell that is broken into lines where there is no room."""
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {"content-type": "text/html; charset=utf-8", "content-security-policy": POLICY, "cache-control": "no-store"}
_STYLE = """
:root{color-scheme:light dark;--ink:#1a1c1e;--soft:#5c636a;--line:#d9dde1;--back:#fff;--one:#8a939b;--own:#0b6e99;
--bad:#b3261e;--good:#1b7a3d}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#9aa3ab;--line:#3a4046;--back:#15181b;--one:#78828a;
--own:#58b4dc;--bad:#ff8a80;--good:#7bd88f}}
*{box-sizing:border-box}body{margin:0 auto;max-width:70rem;padding:1rem;background:var(--back);color:var(--ink);
font:15px/1.45 system-ui,sans-serif}h1{font-size:1.3rem;margin:0}h2{font-size:1rem;margin:1.6rem 0 .4rem}
p{margin:.2rem 0;color:var(--soft)}dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(15rem,1fr));gap:.4rem
1.2rem;margin:.8rem 0}dt{color:var(--soft);font-size:.8rem}dd{margin:0;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.25rem .8rem .25rem 0;border-bottom:1px solid var(--line);vertical-align:top}
td{white-space:nowrap}td.long{white-space:normal;overflow-wrap:anywhere;min-width:7rem}
th{color:var(--soft);font-weight:500;font-size:.8rem}.bad{color:var(--bad)}.good{color:var(--good)}
h1,h2,p{overflow-wrap:anywhere}
@media(max-width:64rem){thead{position:absolute;clip-path:inset(50%);width:1px;height:1px;overflow:hidden}
tbody,td{display:block}tr{display:grid;grid-template-columns:repeat(auto-fit,minmax(7rem,1fr));gap:.1rem .8rem;
padding:.4rem 0;border-bottom:1px solid var(--line)}td,td.long{border:0;padding:0;white-space:normal;
overflow-wrap:anywhere;min-width:0}td::before{content:attr(data-label);display:block;color:var(--soft);
font-size:.75rem}td:empty{display:none}}
svg{width:100%;height:auto;display:block}.own{stroke:var(--own)}.one{stroke:var(--one)}
path{fill:none;stroke-width:1.6;vector-effect:non-scaling-stroke}
"""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Equity of one account over time, and that of multiplier 1.0."""

    name: str
    policy: Sequence[float]
    one: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class PageTable:
    """A table."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    nothing: str = "nothing yet"


@dataclass(frozen=True, kw_only=True)
class LivePage:
    """What is shown, from top to bottom."""

    title: str
    status: str
    well: bool
    facts: Sequence[tuple[str, str]]
    curves: Sequence[Curve] = ()
    tables: Sequence[PageTable] = ()


def render_page(page: LivePage) -> bytes:
    """The document."""
    facts = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in page.facts)
    parts = [_curve(curve) for curve in page.curves] + [_table(table) for table in page.tables]
    state = "good" if page.well else "bad"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(page.title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="refresh" content="{RELOAD_S}"><link rel="icon" href="data:,"><style>{_STYLE}</style></head>'
        f'<body><h1>{escape(page.title)}</h1><p role="status" class="{state}">{escape(page.status)}</p>'
        f"<dl>{facts}</dl>{''.join(parts)}</body></html>"
    ).encode()


def _table(table: PageTable) -> str:
    head = f"<h2>{escape(table.title)}</h2>"
    if not table.rows:
        return f"{head}<p>{escape(table.nothing)}</p>"
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.columns)
    rows = "".join(f"<tr>{''.join(map(_cell, table.columns, row))}</tr>" for row in table.rows)
    return f"{head}<table><thead><tr>{columns}</tr></thead><tbody>{rows}</tbody></table>"


def _cell(column: str, text: str) -> str:
    """On a narrow screen a row is a card, and each cell shows its column's name itself."""
    kind = ' class="long"' if len(text) > LONG else ""
    return f'<td{kind} data-label="{escape(column)}">{escape(text)}</td>'


def _curve(curve: Curve) -> str:
    every = [*curve.policy, *curve.one]
    if len(curve.policy) < 2:
        return f"<h2>{escape(curve.name)}</h2><p>the curve begins with the second bar</p>"
    low, high = min(every), max(every)
    span = high - low or 1.0
    last, one = curve.policy[-1], curve.one[-1]
    told = f"policy {last:,.2f} USD, multiplier 1.0 {one:,.2f} USD, difference {last - one:+,.2f} USD"
    paths = "".join(f'<path class="{kind}" d="{_path(values, low, span)}"/>' for kind, values in _kinds(curve))
    return (
        f'<h2>{escape(curve.name)}</h2><p><span class="own">policy</span> and multiplier 1.0 (grey): {escape(told)}</p>'
        f'<svg viewBox="0 0 1000 240" preserveAspectRatio="none" role="img" aria-label="{escape(told)}">{paths}</svg>'
    )


def _kinds(curve: Curve) -> list[tuple[str, Sequence[float]]]:
    return [("one", curve.one), ("own", curve.policy)]


def _path(values: Sequence[float], low: float, span: float) -> str:
    step = max(1, -(-len(values) // POINTS))
    kept = [*values[::step], values[-1]]
    width = max(1, len(kept) - 1)
    points = (f"{1000 * i / width:.1f},{235 - 230 * (value - low) / span:.1f}" for i, value in enumerate(kept))
    return "M" + "L".join(points)
