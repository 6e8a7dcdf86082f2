"""The run card: one HTML file that is read in a minute, needs no network, and follows the reader's light or dark.

The order is the order of doubt: the verdict in a sentence, the gate's lines, the ledger it was judged in, the curves,
the controls, what was tried, what it cost. All numbers come from the run's folder; nothing is computed here that is
not in its documents.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from himari_rl.errors import not_installed
from himari_rl.evaluation import metrics
from himari_rl.evaluation.backtest import POLICY, is_seed
from himari_rl.evaluation.baselines import CASH, ONE, RANDOM
from himari_rl.evaluation.one_liners import BEST, candidates
from himari_rl.evaluation.record import BUNDLE, COST, SUMMARY, read_curves, read_document, read_run
from himari_rl.policy.bundle import read_manifest
from himari_rl.policy.ledger_config import LedgerConfig
from himari_rl.release.gate import GateAnswer
from himari_rl.storage import read_bytes

POINTS = 1500  # of a curve; more are not seen and make the file heavy
PANELS = ("equity", "drawdown", "difference", "sizing", "costs", "folds")

_STYLE = """
:root { color-scheme: light dark; --ink:#1c2330; --paper:#fbfbf9; --card:#fff; --line:#dfe2e6; --soft:#667085;
  --good:#1a7f4b; --bad:#c0362c; }
@media (prefers-color-scheme: dark) { :root:not([data-theme=light]) { --ink:#e6e9ef; --paper:#14171c; --card:#1c2027;
  --line:#323843; --soft:#98a2b3; --good:#4cc38a; --bad:#ff7b72; } }
:root[data-theme=dark] { --ink:#e6e9ef; --paper:#14171c; --card:#1c2027; --line:#323843; --soft:#98a2b3;
  --good:#4cc38a; --bad:#ff7b72; }
body { margin:0 auto; max-width:1120px; padding:2rem 1.2rem 4rem; background:var(--paper); color:var(--ink);
  font:15px/1.5 system-ui, sans-serif; }
h1 { font-size:1.25rem; margin:0; } h2 { font-size:1rem; margin:2rem 0 .6rem; }
header { display:flex; justify-content:space-between; align-items:baseline; gap:1rem; }
button { background:var(--card); color:var(--ink); border:1px solid var(--line); border-radius:6px;
  padding:.3rem .7rem; }
.sentence { font-size:1.3rem; line-height:1.35; margin:1rem 0 .3rem; } .soft { color:var(--soft); }
section > div.plot { background:var(--card); border:1px solid var(--line); border-radius:8px; height:320px; }
table { border-collapse:collapse; width:100%; background:var(--card); font-variant-numeric:tabular-nums; }
th,td { text-align:left; padding:.3rem .6rem; border-bottom:1px solid var(--line); vertical-align:top; }
th { color:var(--soft); font-weight:500; } td.n { text-align:right; white-space:nowrap; }
.pass { color:var(--good); font-weight:600; } .fail { color:var(--bad); font-weight:600; }
.pair { display:grid; grid-template-columns:repeat(auto-fit,minmax(440px,1fr)); gap:0 1rem; }
"""

_SCRIPT = """
const figures = JSON.parse(document.getElementById('figures').textContent);
function dark() { const t = document.documentElement.dataset.theme;
  return t ? t === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches; }
function look() { const ink = dark() ? '#e6e9ef' : '#1c2330', grid = dark() ? '#323843' : '#e4e7eb';
  return { paper_bgcolor:'rgba(0,0,0,0)', plot_bgcolor:'rgba(0,0,0,0)', font:{color:ink},
    xaxis:{gridcolor:grid, zerolinecolor:grid}, yaxis:{gridcolor:grid, zerolinecolor:grid} }; }
function merged(a, b) { const out = {...a}; for (const k in b) out[k] =
  (a[k] && typeof a[k] === 'object' && !Array.isArray(a[k])) ? merged(a[k], b[k]) : b[k]; return out; }
function draw() { for (const [name, f] of Object.entries(figures))
  Plotly.react(name, f.data, merged(f.layout, look()), {displaylogo:false, responsive:true}); }
document.getElementById('theme').onclick = () => {
  document.documentElement.dataset.theme = dark() ? 'light' : 'dark'; draw(); };
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
draw();
document.documentElement.dataset.ready = 'yes';
"""


def report_page(run: str | Path, answer: GateAnswer) -> str:
    """The page of a finished walk-forward with its gate's answer.

    Raises:
        StorageError: the folder is no finished walk-forward. ConfigError: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise not_installed("a run card", error, "judge") from error

    document, curves = read_run(run), read_curves(run)
    cost = json.loads(read_bytes(Path(run) / COST))
    figures = figures_of(document, curves)
    title = f"{', '.join(document['symbols'])}, {document['kind']}: {len(document['folds'])} folds"
    body = [
        _head(document, answer, title),
        _section("gates", f"Gate: {answer.reason}", _gates(answer)),
        _section("ledger", "Ledger and limits", _ledger(read_manifest(Path(run) / BUNDLE).ledger.config)),
        _section("data", "What the data says of itself", _facts(document)),
        *(_section(name, _TITLES[name], f'<div class="plot" id="{name}"></div>') for name in PANELS),
        _section("baselines", "The policy alone, and minus each baseline on the same bars", _baselines(document)),
        _section("controls", "Controls, without which this verdict would not be printed", _controls(document)),
        _section("lags", "Every decision k bars late, for reading: no rule rests on it", _lag_profile(document)),
        _section("trials", "What was tried on this span", _trials(document, cost)),
        _section("cost", "What it cost", _cost(document, cost)),
        *_later_look(Path(run) / BUNDLE / SUMMARY),
    ]
    data = json.dumps(figures, allow_nan=False).replace("</", "<\\/")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f"<style>{_STYLE}</style></head><body>{''.join(body)}"
        f'<script type="application/json" id="figures">{data}</script>'
        f"<script>{get_plotlyjs()}</script><script>{_SCRIPT}</script></body></html>"
    )


_TITLES = {
    "equity": "Equity, out of sample, log scale",
    "drawdown": "Drawdown",
    "difference": "Policy minus multiplier 1.0, cumulated log-growth; the band is what no difference looks like (95 %)",
    "sizing": "Multiplier and exposure",
    "costs": "Commission and slippage so far, and the Sharpe ratio at higher costs",
    "folds": "Log-growth over multiplier 1.0 by fold and seed, %",
}


def figures_of(document: Mapping[str, Any], curves: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The panels as plotly JSON."""
    time = curves["fill_time"]
    pick = np.unique(np.linspace(0, len(time) - 1, min(len(time), POINTS)).round().astype(int))
    when = time[pick].astype("datetime64[ms]").astype(str).tolist()
    equity = {name.removeprefix("equity/"): values for name, values in curves.items() if name.startswith("equity/")}
    first = [POLICY, BEST, ONE, CASH]
    shown = [n for n in [*first, *(n for n in equity if n not in first)] if n in equity and not is_seed(n)]
    hidden = (RANDOM, *candidates(len(document["symbols"])))  # a click in the legend shows them

    def line(name: str, values: np.ndarray, **more: Any) -> dict[str, Any]:
        found = np.round(values[pick].astype(float), 6).tolist()
        return {"type": "scatter", "mode": "lines", "x": when, "y": found, "name": name, **more}

    def styled(name: str) -> dict[str, Any]:
        width = 2.6 if name == POLICY else 1.8 if name == BEST else 1.2
        return {"line": {"width": width}, "visible": "legendonly" if name in hidden else True}

    depth = {name: -np.expm1(metrics.underwater(equity[name])) for name in shown}
    difference = np.cumsum(curves[f"growth/{POLICY}"] - curves[f"growth/{ONE}"])
    verdict = document["judgement"]["verdict"]
    year, count = verdict["bars_per_year"], len(time)
    per_root_bar = verdict["growth"]["standard_error"] / year * np.sqrt(count)
    band = 1.96 * per_root_bar * np.sqrt(np.arange(1, count + 1))
    faint = {"line": {"width": 0.6, "color": "#98a2b3"}, "showlegend": False}
    return {
        "equity": _figure([line(n, np.exp(equity[n]), **styled(n)) for n in shown], yaxis={"type": "log"}),
        "drawdown": _figure([line(n, -100 * depth[n], **styled(n)) for n in shown], yaxis={"ticksuffix": " %"}),
        "difference": _figure(
            [
                line("band", -band, **faint),
                line(
                    "no difference, 95 %", band, fill="tonexty", fillcolor="rgba(152,162,179,.25)", line=faint["line"]
                ),
                line("policy minus 1.0", difference, line={"width": 2.4}),
            ]
        ),
        "sizing": _figure(
            [
                line("multiplier", curves["multiplier"].mean(axis=1), line={"width": 1}),
                line("exposure", curves["exposure"].sum(axis=1), line={"width": 1}),
            ]
        ),
        "costs": _costs(document, line("cost so far, % of equity", 100 * curves["cost"])),
        "folds": _folds(document),
    }


def _figure(data: Sequence[dict[str, Any]], **layout: Any) -> dict[str, Any]:
    base = {"margin": {"l": 56, "r": 16, "t": 16, "b": 36}, "legend": {"orientation": "h"}, "hovermode": "x unified"}
    return {"data": list(data), "layout": {**base, "xaxis": {}, "yaxis": {}, **layout}}


def _costs(document: Mapping[str, Any], line: dict[str, Any]) -> dict[str, Any]:
    control = next(c for c in document["judgement"]["controls"] if c["name"] == "costs")
    names, values = list(control["numbers"]), [round(v, 3) for v in control["numbers"].values()]
    bars: dict[str, Any] = {
        "type": "bar",
        "x": names,
        "y": values,
        "name": "Sharpe ratio at costs",
        "xaxis": "x2",
        "yaxis": "y2",
    }
    return _figure(
        [line, bars],
        xaxis={"domain": [0, 0.68]},
        xaxis2={"domain": [0.76, 1]},
        yaxis2={"anchor": "x2"},
        hovermode="closest",
    )


def _folds(document: Mapping[str, Any]) -> dict[str, Any]:
    folds = document["folds"]
    names = [name for name in folds[0]["growth"] if name != ONE]
    gains = [[round(100 * (fold["growth"][name] - fold["growth"][ONE]), 3) for fold in folds] for name in names]
    bound = max(1e-3, max(abs(value) for row in gains for value in row))
    heat: dict[str, Any] = {"type": "heatmap", "x": [fold["test"][0][:10] for fold in folds], "y": names, "z": gains}
    heat |= {"zmin": -bound, "zmax": bound, "colorscale": "RdBu", "colorbar": {"ticksuffix": " %"}}
    return _figure([heat], hovermode="closest", margin={"l": 76, "r": 16, "t": 16, "b": 36})


def _head(document: Mapping[str, Any], answer: GateAnswer, title: str) -> str:
    verdict = document["judgement"]["verdict"]
    data = document["data"]
    mark = '<span class="pass">promotable</span>' if answer.passed else '<span class="fail">refused</span>'
    synthetic = (
        '<p class="fail">These bars are synthetic: this says nothing about a market.</p>' if data["synthetic"] else ""
    )
    why = "" if answer.passed else f"<p>Why refused: {html.escape(_why(answer))}</p>"
    said = "".join(f"<li>{html.escape(each)}</li>" for each in answer.statements)
    return (
        f'<header><h1>{html.escape(title)}</h1><button id="theme" type="button">light / dark</button></header>'
        f'<section id="verdict"><p class="sentence">{mark}. {html.escape(verdict["sentence"])}</p>{synthetic}'
        f"<ul>{said}</ul>{why}"
        f'<p class="soft">{html.escape(answer.version)}, {verdict["decisions"]:,} decisions out of sample, '
        f"{verdict['start']} to {verdict['end']}; data {html.escape(Path(data['source']).name)}, sha256 "
        f"{data['sha256'][:12]}, signals: {data['signals']}.</p>{_whose(answer)}</section>"
    )


def _whose(answer: GateAnswer) -> str:
    """Which policies were judged and which one ships; or what is wrong with the evidence."""
    found = [line.why for line in answer.lines if line.rule == "evidence"]
    return "".join(f'<p class="soft">{html.escape(why)}.</p>' for why in found)


def _why(answer: GateAnswer) -> str:
    refused = [line for line in answer.lines if not line.passed]
    return "; ".join(
        f"{line.rule} {line.number:.3g} (must be {line.comparison} {line.threshold:g})" for line in refused
    )


def _section(name: str, title: str, inner: str) -> str:
    return f'<section id="section-{name}"><h2>{html.escape(title)}</h2>{inner}</section>'


def _gates(answer: GateAnswer) -> str:
    rows = []
    for line in answer.lines:
        interval = "" if line.lower is None else f"{line.lower:+.3f} to {line.upper:+.3f}"
        rows.append(
            (line.rule, f"{line.number:.3f}", f"{line.comparison} {line.threshold:g}", interval, line.passed, line.why)
        )
    return _table(("rule", "number", "must be", "95 % interval", "", "why"), rows)


_LEDGER = (  # what each part of LedgerConfig.describe() is
    "costs per unit of traded notional",
    "short positions",
    "base position, of equity",
    "gross exposure, of equity",
    "daily loss stop, of equity",
    "multiplier caps: NORMAL / HIGH_VOL / CRISIS / CASCADE",
)


def _ledger(config: LedgerConfig) -> str:
    limits = config.limits
    starts = (
        ("HIGH_VOL", "20-bar volatility", limits.high_vol_volatility),
        ("CRISIS", "20-bar volatility", limits.crisis_volatility),
        ("CRISIS", "cascade risk", limits.crisis_risk),
        ("CASCADE", "cascade risk", limits.cascade_risk),
    )
    entered = "; ".join(f"{regime} from {what} {level:g}" for regime, what, level in starts if np.isfinite(level))
    rows = [*zip(_LEDGER, config.describe().split(", "), strict=True), ("regimes", entered or "never entered")]
    return _table(("what", "in the ledger that judged"), rows)


def _facts(document: Mapping[str, Any]) -> str:
    accepted = document.get("accepted", ())
    rows = [
        (fact["name"], "accepted" if fact["name"] in accepted else fact["level"], fact["sentence"])
        for fact in document.get("facts", ())
    ]
    return _table(("fact", "", "what was found"), rows) if rows else "<p>Nothing was recorded.</p>"


def _controls(document: Mapping[str, Any]) -> str:
    judgement = document["judgement"]
    rows = [(c["name"], c["passed"], c["sentence"]) for c in judgement["controls"]]
    power = f"This much data shows an advantage of {100 * judgement['detectable']:.1f} % a year with 95 % power."
    return _table(("control", "", "what was found"), rows) + f'<p class="soft">{power}</p>'


def _lag_profile(document: Mapping[str, Any]) -> str:
    """How the edge fades with the lag, beside how fast the exposure itself forgets; runs of old have none."""
    found = document.get("lag_profile", {"bars": [], "retained": [], "autocorrelation": []})
    told = [[f"{value:.2f}" for value in found[name]] for name in ("retained", "autocorrelation")]
    head = ("bars late", *(f"{lag:g}" for lag in found["bars"]))
    return _table(head, [("return before costs kept", *told[0]), ("own autocorrelation of the exposure", *told[1])])


def _baselines(document: Mapping[str, Any]) -> str:
    verdict = document["judgement"]["verdict"]
    over_one = {name: verdict[name] for name in ("growth", "utility", "sharpe", "drawdown")}
    lines = {"alone": verdict["own"], f"minus {ONE}": over_one}
    lines |= {f"minus {name}": measures for name, measures in verdict["less"].items()}
    rows = []
    for name, measures in lines.items():
        shares = [measures[part] for part in ("growth", "utility", "drawdown")]
        told = [f"{100 * p['estimate']:+.1f} ({100 * p['lower']:+.1f} to {100 * p['upper']:+.1f})" for p in shares]
        ratio = measures["sharpe"]
        told.insert(2, f"{ratio['estimate']:+.2f} ({ratio['lower']:+.2f} to {ratio['upper']:+.2f})")
        rows.append((name, *told))
    head = ("policy", "growth, % a year", "utility, % a year", "Sharpe ratio", "drawdown, %")
    return _table(head, rows) + '<p class="soft">In brackets 95 % intervals of the stationary bootstrap.</p>'


def _trials(document: Mapping[str, Any], cost: Mapping[str, Any]) -> str:
    number = document["judgement"]["verdict"]["trials"]
    rows = [(t["at"], t["purpose"], t["what"]) for t in cost["trials"][-30:]]
    registered = html.escape((document.get("registration") or {}).get("line", "not registered"))
    return f"<p>{number} look(s) counted in the deflated Sharpe ratio; {registered}.</p>" + _table(
        ("when", "what for", "which"), rows
    )


def _cost(document: Mapping[str, Any], cost: Mapping[str, Any]) -> str:
    return (
        f"<p>{cost['seconds']:,.0f} s in all, {cost['training_seconds']:,.0f} s of it training on "
        f"{cost['bars_trained']:,} bars; {cost['usd']:.4f} USD at {cost['usd_per_hour']:.2f} USD an hour.</p>"
        + (f'<p class="soft">{html.escape(document["budget"].capitalize())}.</p>' if "budget" in document else "")
    )


def _later_look(path: Path) -> list[str]:
    """What `himari evaluate` said of the shipped policy on other bars, with what sets those bars apart; [] if never."""
    if not path.exists():
        return []
    found = read_document(path)
    lines = [found["verdict"]["sentence"], *found.get("notes", ())]
    inner = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    return [_section("later", f"The shipped policy on {html.escape(found['data']['symbol'])}, as evaluated", inner)]


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def cell(value: Any) -> str:
        if isinstance(value, bool):
            return f'<td class="{"pass" if value else "fail"}">{"pass" if value else "refuse"}</td>'
        return f"<td>{html.escape(str(value))}</td>"

    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"
