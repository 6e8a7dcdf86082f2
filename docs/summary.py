"""Writes docs/ALL_MODELS_SUMMARY.md: the owner's plan of the three models, and beside it what was measured.

No figure is typed here. Plan and prices come from config/ and the code, measurements from docs/RESULTS.md and
benchmarks/RESULTS.md, each by its section, row and column; where one is not found the script stops and names it.
`python docs/summary.py --check` exits 1 where the page is not what they say.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from himari_rl.card.performance import EXPECTED
from himari_rl.cloud.jobs import WorkSize, estimated
from himari_rl.cloud.machines import BudgetConfig, EstimateConfig, MachinesConfig
from himari_rl.config import from_dict
from himari_rl.features.contract import state_dim

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "ALL_MODELS_SUMMARY.md"
BELIEFS = "2026-11-28 Walk-forwards with beliefs"
LSTM = "2026-11-23 Walk-forward of the LSTM"
PORTFOLIO = "2026-11-23 Walk-forward of the portfolio"
OLD = ", before beliefs"
CLOUD = "2026-11-28 Cloud"
SCRIPTS = {"base": "trainer.py", "lstm": "trainer_lstm.py", "multi": "trainer_multiasset.py"}
FOLDERS = {"base": "base_dir", "lstm": "lstm_dir", "multi": "multi_dir"}
NOT_MEASURED = "not measured"


class Missing(SystemExit):
    """A figure that stands where nobody finds it."""


def section(text: str, title: str) -> str:
    """The part of a page under the first heading that begins so."""
    parts = re.split(r"^## ", text, flags=re.MULTILINE)
    for part in parts[1:]:
        if part.startswith(title):
            return part
    raise Missing(f"no section {title!r}")


def tables(part: str) -> list[dict[str, dict[str, str]]]:
    """Every table of a section: row name -> column name -> cell."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", part, re.MULTILINE):
        rows = [[cell.strip(" *") for cell in line.strip().strip("|").split("|")] for line in block.splitlines()]
        head = rows[0]
        found.append({row[0]: dict(zip(head, row, strict=False)) for row in rows[2:]})
    return found


def value(part: str, row: str, column: str) -> str:
    """The cell of the first table of a section that has this row, by the beginning of its name, and this column."""
    for each in tables(part):
        for name, cells in each.items():
            if name.startswith(row) and cells.get(column):
                return cells[column]
    raise Missing(f"no {row!r} by {column!r} in {part.splitlines()[0]!r}")


def groups(part: str, pattern: str) -> tuple[str, ...]:
    """What a sentence of a section says; lines may break anywhere."""
    match = re.search(pattern, " ".join(part.split()))
    if match is None:
        raise Missing(f"no {pattern!r} in {part.splitlines()[0]!r}")
    return match.groups()


class Measured(NamedTuple):
    """One policy out of sample."""

    name: str
    sharpe: str
    alone: str
    drawdown: str
    over_one: str
    over_best: str
    over_cash: str
    gate: str
    seconds: float
    command: str


def measured(results: str) -> list[Measured]:
    """The newest walk-forward of each model."""
    part, recurrent = section(results, BELIEFS), section(results, LSTM)
    times = groups(part, r"(\d[\d,]*), (\d[\d,]*), (\d[\d,]*) and ([\d,]*\d) s, one process each")
    [command] = groups(part, r"`(himari walk-forward base\|multi [^`]+)`")
    found = []
    for name, seconds in zip(("BTC", "ETH", "SOL", "portfolio"), times, strict=True):
        kind = "multi" if name == "portfolio" else "base"
        found.append(
            Measured(
                name if kind == "multi" else f"base, {name}",
                value(part, f"{name}: policy", "Sharpe"),
                groups(part, rf"{name}: policy \(seeds alone ([^)]+)\)")[0],
                value(part, f"{name}: policy", "drawdown %"),
                value(part, "multiplier 1.0", name),
                value(part, "best one-liner of each fold", name),
                value(part, "cash", name),
                "refused",
                float(seconds.replace(",", "")),
                command.replace("base|multi", kind),
            )
        )
    assert "All four are refused" in " ".join(part.split()), "who is refused changed: change the column `gate`"
    gain, low, high = groups(recurrent, r"Utility over multiplier 1.0 (\S+) % a year \(95 % interval (\S+) to (\S+?)\)")
    [seconds] = groups(recurrent, r"(\d+) s on 2 cores \(bar")
    [line] = groups(recurrent, r"(himari walk-forward lstm .*?) --out")
    groups(recurrent, r"(The gate refuses by)")
    found.insert(
        3,
        Measured(
            f"LSTM, BTC{OLD}",
            value(recurrent, "policy (", "Sharpe"),
            groups(recurrent, r"each seed alone ([-+.\d, ]+\d)")[0],
            value(recurrent, "policy (", "drawdown %"),
            f"{gain} ({low}, {high})",
            NOT_MEASURED,
            NOT_MEASURED,
            "refused",
            float(seconds),
            line.replace("\\ ", ""),
        ),
    )
    return found


def surely(found: list[Measured], column: str) -> str:
    """The policies whose interval lies above 0."""
    names = [each.name for each in found if re.search(r"\(\+", getattr(each, column))]
    return "; ".join(names) or "none"


def each(found: list[Measured], column: str) -> str:
    """One figure of several policies."""
    return "; ".join(f"{one.name.removeprefix('base, ')} {getattr(one, column)}" for one in found)


def grid(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """A table of Markdown."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)]) + "\n"


def cents(seconds: float, usd_per_hour: float) -> str:
    """What so many seconds of a machine cost."""
    return f"{100.0 * seconds * usd_per_hour / 3600.0:.1f} cents"


def wrapped(line: str) -> str:
    """A line in the house's width."""
    return textwrap.fill(line, 120, break_on_hyphens=False, break_long_words=False)


def between(name: str, scale: float = 100.0, unit: str = " %") -> str:
    """A figure that the owner expects."""
    of = EXPECTED[name]
    if of.high is None:
        return f"above {scale * of.low:g}{unit}"
    return f"{scale * of.low:g} to {scale * of.high:g}{unit}"


def page() -> str:
    """The whole page."""
    results = (ROOT / "docs" / "RESULTS.md").read_text()
    benchmarks = (ROOT / "benchmarks" / "RESULTS.md").read_text()
    config = yaml.safe_load((ROOT / "config" / "gcp_deployment.yaml").read_text())
    gates = yaml.safe_load((ROOT / "config" / "gates.yaml").read_text())
    found = measured(results)
    budget, known = from_dict(BudgetConfig, config["budget"]), from_dict(EstimateConfig, config["estimate"])
    machines = from_dict(MachinesConfig, config["machines"])
    cpu, t4 = config["machines"]["cpu"]["usd_per_hour"], config["machines"]["t4"]["usd_per_hour"]
    jobs = [float(each) for each in groups(section(benchmarks, CLOUD), r"1000 episodes (\d+), (\d+), (\d+) s")]
    assets = len(config["cloud"]["symbols"])
    dims = {"base": state_dim(1), "lstm": state_dim(1), "multi": state_dim(assets)}
    models = [
        (
            kind,
            f"vertex_training/{SCRIPTS[kind]}",
            config["cloud"][FOLDERS[kind]],
            dims[kind],
            assets if kind == "multi" else 1,
        )
        for kind in SCRIPTS
    ]
    costs = []
    for kind, seconds in zip(SCRIPTS, jobs, strict=True):
        job = estimated(kind, WorkSize(), "t4", machines.t4, known, False)
        costs.append(
            (
                kind,
                f"${budget.planned(kind):g}",
                f"{100 * job.usd:.1f} cents, {job.minutes:.0f} minutes",
                f"{seconds:.0f} s: {cents(seconds, t4)}",
            )
        )
    figures = [
        (m.name, between("sharpe", 1.0, ""), m.sharpe, m.alone, between("drawdown"), f"{m.drawdown} %") for m in found
    ]
    gains = [(m.name, m.over_one, m.over_best, m.over_cash, m.gate) for m in found]
    walks = [(m.name, f"`{m.command}`", f"{m.seconds:,.0f} s", cents(m.seconds, cpu)) for m in found]
    by_kind = {kind: [m for m in found if m.name.startswith(kind)] for kind in ("base", "portfolio")}
    earlier = section(results, PORTFOLIO)
    column = "policy (95 % interval)"
    less_base = groups(section(results, LSTM), r"the Sharpe ratio is (\S+ \([^)]+\))")[0]
    thresholds = [
        ("base", f"Sharpe ratio a year above {gates['min_sharpe']}", each(by_kind["base"], "sharpe")),
        ("lstm", f"{gates['min_lstm_gain']} over the base champion, interval above 0", f"{less_base}{OLD}"),
        ("multi", f"Sharpe ratio a year above {gates['min_portfolio_sharpe']}", each(by_kind["portfolio"], "sharpe")),
        ("multi", f"Herfindahl index below {gates['max_herfindahl']}", value(earlier, "Herfindahl", column) + OLD),
        ("multi", f"each share above {100 * gates['min_asset_share']:g} %", value(earlier, "share of", column) + OLD),
        ("all", f"deepest fall below {100 * gates['max_drawdown']:g} %", each(found, "drawdown")),
    ]  # fmt: skip
    told = {name: surely(found, name) for name in ("over_one", "over_best", "over_cash")}
    lead = wrapped(" ".join(LEAD.format(**told).split()))
    text = TEXT.format(
        models=grid(("model", "script", "folder in the bucket", "numbers in", "multipliers out"), models),
        figures=grid(
            ("policy", "Sharpe, planned", "measured", "its seeds alone", "drawdown, planned", "measured"), figures
        ),
        gains=grid(("policy", "less multiplier 1.0", "less the best one-liner", "less cash", "gate"), gains),
        thresholds=grid(("model", "the gate asks for", "measured"), thresholds),
        costs=grid(("model", "planned", "estimated on t4", "the plan's command, measured"), costs),
        walks=grid(("policy", "command", "seconds", "on `cpu`"), walks),
        lead=lead,
        days=between("days"),
        diversification=between("diversification"),
        total=f"${budget.total_usd:g}",
        t4=f"${t4}",
        cpu=f"${cpu}",
        prices=f"{config['machines']['price_date']}, {config['machines']['price_source']}",
    )
    return "\n".join(line if line.startswith("|") else wrapped(line) for line in text.splitlines()) + "\n"


LEAD = """**No model has passed its gate on these bars.** Surely above multiplier 1.0 (the interval lies above 0):
{over_one}. Surely above the best rule of one line of code: {over_best}. Surely above cash: {over_cash}. A Layer 2 with
an edge is another input, and the same commands judge it."""
TEXT = """<!-- Written by `python docs/summary.py` from config/, docs/RESULTS.md and benchmarks/RESULTS.md. -->

# All models: what was planned, and what was measured

The product's owner planned three models, each with figures to reach, a gate to pass and money to spend. Beside each
plan stands what was measured out of sample, after costs, on recorded hourly bars: four years, 48 folds, five seeds, a
reference signal in place of Layer 2. Sections, spans and digests: [RESULTS.md](RESULTS.md).

{lead}

## The models

{models}
## Figures expected and measured

{figures}
The plan also names {days} winning days and trades and a portfolio that takes {diversification} of the risk away: each
run's card (`himari report RUN`) has them with intervals, under "Expected and measured".

Paired differences in mean-variance utility on the same bars, % a year (95 % interval):

{gains}
## What the gate asks for

{thresholds}
[verdict.md](verdict.md#the-gate) has every rule.

## Cost

{total} were planned in all. `himari cost` shows plan, estimate and what was spent in your own bucket.

{costs}
The plan's command: 1000 episodes, five seeds, three real hourly files, from start to the gate's verdict, measured on
two shared cores and priced as if a t4 machine ({t4} an hour) had been as slow. No GPU has been timed.

The evidence costs more than the model: a walk-forward trains 48 folds of five seeds, and both twins of its controls.

{walks}
`cpu` is an e2-standard-4 at {cpu} an hour ({prices}).

## Which model should I use?

`himari decide --base RUN/bundle --lstm RUN/bundle --multi RUN/bundle` walks this tree and says why:

1. **Does base pass its gate?** If not, neither memory nor a portfolio is worth its complexity: keep multiplier 1.0, or
   cash where 1.0 itself lost.
2. **Does LSTM pass, which asks for more than the base champion?** Then LSTM; else base stays.
3. **Does the portfolio pass?** Then the portfolio; else what 2 says.
"""


def main(argv: list[str]) -> int:
    """Writes the page, or with --check compares it."""
    if "--check" in argv:
        same = PAGE.exists() and PAGE.read_text() == page()
        if not same:
            sys.stderr.write("docs/ALL_MODELS_SUMMARY.md is not what its sources say; run: python docs/summary.py\n")
        return 0 if same else 1
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
