"""himari data: where bars come from and what is in them.

himari data fetch BTC-USD --since 2020-01-01
himari data audit data/coinbase/BTC-USD_1h.parquet
himari data join BTC-USDT_1h.parquet signals.csv --max-age 4h
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated

import click

from himari_rl.cli.signature import Argument, Option, make_command, make_group

if TYPE_CHECKING:
    from himari_rl.data.audit import AuditReport
    from himari_rl.schema import Bars


def register(app: click.Group) -> None:
    """Adds `himari data`."""
    group = make_group("data", "Download bars, and see what is in them.")
    for command in (fetch, audit, join):
        group.add_command(make_command(command))
    app.add_command(group)


def fetch(
    symbol: Annotated[str, Argument(help="As the exchange trades it: BTC-USD, BTC-USDT.")],
    since: Annotated[str, Option(help="First bar, ISO date or time, UTC.")],
    until: Annotated[str | None, Option(help="Up to, not including; now if not given.")] = None,
    exchange: Annotated[str, Option(help="A ccxt exchange: coinbase, binance, bitstamp ...")] = "coinbase",
    timeframe: Annotated[str, Option(help="Length of a bar: 1h, 1d, 15m ...")] = "1h",
    out: Annotated[str, Option(help="Folder; the file is OUT/EXCHANGE/SYMBOL_1h.parquet.")] = "data",
    as_json: Annotated[bool, Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Downloads candles from a public exchange; run it again to continue or to bring it up to date.

    Example: himari data fetch BTC-USD --since 2020-01-01
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from himari_rl.data.fetch import fetch as download
    from himari_rl.data.table import stamp

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"{symbol} {timeframe} from {exchange}", total=None)
        done = download(
            symbol,
            since,
            until,
            exchange=exchange,
            timeframe=timeframe,
            out=out,
            progress=lambda now, total: bar.update(task, completed=now, total=total),
        )
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(done)))
        return
    console = Console(soft_wrap=True, highlight=False)
    console.print(
        f"{done.path}: {done.rows:,} bars ({done.new_rows:,} new), {stamp(done.start_ms)} .. {stamp(done.end_ms)}, "
        f"{done.missing_bars:,} missing at the exchange (left as gaps)",
        markup=False,
    )
    console.print(f"next: himari data audit {done.path}", markup=False)


def audit(
    paths: Annotated[list[str], Argument(help="Files or folders: .csv, .csv.gz, .parquet.")],
    symbol: Annotated[str | None, Option(help="Only this symbol.")] = None,
    interval: Annotated[str | None, Option(help="Only this interval: 1h, 1d ...")] = None,
    accept: Annotated[list[str] | None, Option(help="A finding to go on with, by its name.")] = None,
    as_json: Annotated[bool, Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Shows gaps, duplicates, outliers, broken rows, suspected leaks, what the data says of itself, and fingerprint.

    Exit code 0 when the bars can be used as they are, 1 when they cannot, or not unless told by --accept.

    Example: himari data audit data/coinbase/BTC-USD_1h.parquet
    """
    from himari_rl.cli.console import print_words
    from himari_rl.data.audit import audit_files, audit_together
    from himari_rl.data.config import DataConfig
    from himari_rl.errors import RefusedError
    from himari_rl.features.signals import signals_of

    def resolved(bars: Bars) -> Bars:
        return dataclasses.replace(bars, signals=signals_of(bars))

    known = DataConfig(accept=tuple(accept or ()))
    reports = audit_files(paths, symbol, interval, accept=known.accept, resolve=resolved)
    shared = audit_together(paths, symbol, interval) if len(reports) > 1 else ()
    usable = [report for report in reports if report.usable]
    as_they_are = [report for report in usable if not report.refused]
    if as_json:
        document = {
            "usable": len(as_they_are) == len(reports),
            "reports": [report.as_json() for report in reports],
            "together": [fact.as_json() for fact in shared],
        }
        click.echo(json.dumps(document, allow_nan=False))
    else:
        for report in reports:
            _print(report)
        for fact in shared:
            print_words(fact.sentence, style="yellow" * (fact.level != "note"))
    if len(usable) < len(reports):
        refused = next(report for report in reports if not report.usable)
        raise RefusedError(
            f"{len(reports) - len(usable)} of {len(reports)} data sets cannot be used", "", refused.problems[0]
        )
    if len(as_they_are) < len(reports):
        refused = next(report for report in reports if report.refused)
        fact = next(fact for fact in refused.facts if fact.name in refused.refused)
        raise RefusedError(
            f"{len(reports) - len(as_they_are)} of {len(reports)} data sets are refused unless told: {fact.sentence}",
            "",
            f"{fact.cure}; --accept {fact.name} goes on with it",
        )


def join(
    bars: Annotated[str, Argument(help="Bars of one symbol: a file or a folder.")],
    signals: Annotated[str, Argument(help="Signals at any times: timestamp and signal_action, more if known.")],
    max_age: Annotated[str | None, Option(help="How long a signal is held: 4h, 30m (default: 4 bars).")] = None,
    symbol: Annotated[str | None, Option(help="Which symbol, where the bars have several.")] = None,
    out: Annotated[str | None, Option(help="File (default: SYMBOL_1h_signals.parquet beside SIGNALS).")] = None,
    as_json: Annotated[bool, Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Puts signals that come as events onto bars: each counts from the close of the bar in which it came.

    Example: himari data join BTC-USDT_1h.parquet signals.csv --max-age 4h
    """
    from rich.console import Console

    from himari_rl.data.checks import interval_ms
    from himari_rl.data.grid import interval_name
    from himari_rl.data.join import described, join_signals
    from himari_rl.data.sources import load_bars
    from himari_rl.data.table import read_table, write_bars
    from himari_rl.errors import DataError
    from himari_rl.storage import is_file, is_remote, parent
    from himari_rl.storage import join as place_of
    from himari_rl.storage import stamp as state_of

    loaded, age = load_bars(bars, symbol), None if max_age is None else interval_ms(max_age)
    joined = join_signals(loaded, read_table(signals), age)
    name = f"{loaded.symbol}_{interval_name(loaded.interval_ms)}_signals.parquet"
    path = place_of(parent(signals), name) if out is None else out
    here = [state_of(given) for given in (bars, signals) if not is_remote(given)]  # under whatever name
    if path in (bars, signals) or (not is_remote(path) and is_file(path) and state_of(path) in here):
        raise DataError(f"--out {path} is one of the files that are read", "another file", "choose another --out")
    write_bars(joined.bars, path)
    if as_json:
        told = {key: value for key, value in vars(joined).items() if key != "bars"}
        click.echo(json.dumps({"path": path, "bars": len(loaded)} | told))
        return
    console = Console(soft_wrap=True, highlight=False)
    for line in described(joined):
        console.print(line, markup=False)
    console.print(f"next: himari data audit {path}", markup=False)


def _print(report: AuditReport) -> None:
    """One report for people."""
    from rich.console import Console
    from rich.markup import escape

    from himari_rl.cli.console import print_words

    verdict = "[green]usable[/]" if report.usable else "[red]cannot be used[/]"
    if report.refused:
        verdict = f"[red]refused unless told[/] (--accept {' --accept '.join(report.refused)})"
    Console(highlight=False).print(f"{escape(report.symbol)} {report.interval}: {verdict}\n", soft_wrap=True)
    lines = _lines(report)
    width = max(len(name) for name, _, _ in lines)
    for name, value, alarm in lines:
        print_words(f"{f'  {name}':<{width + 2}}  {value}", indent=width + 4, style="yellow" * alarm)
    click.echo()


def _lines(report: AuditReport) -> list[tuple[str, str, bool]]:
    """(name, value, whether it deserves a look) of each line."""
    gaps = f"{report.gaps:,}"
    if report.gaps:
        gaps += f" ({report.missing_bars:,} bars missing, largest {report.largest_gap_bars:,}); first: "
        gaps += "; ".join(f"{gap.after} .. {gap.before} ({gap.missing_bars})" for gap in report.first_gaps)
    outliers = f"{report.outliers:,}"
    if report.outliers:
        listed = (f"{o.timestamp} {o.of} {o.log_return:+.3f} ({o.deviations:+.0f} sd)" for o in report.first_outliers)
        outliers += f"; first: {'; '.join(listed)}"
    lines = [
        ("source", report.source + (" (SYNTHETIC)" if report.synthetic else ""), report.synthetic),
        ("rows", f"{report.rows:,}", False),
        ("span", f"{report.start} .. {report.end}", False),
        ("gaps", gaps, report.gaps > 0),
        ("outliers", outliers, report.outliers > 0),
        ("no volume", f"{report.zero_volume:,} bars (not tradable)", False),
        ("duplicates", f"{report.duplicates:,}", report.duplicates > 0),
        ("unsorted", f"{report.unsorted:,}", report.unsorted > 0),
        ("OHLC broken", f"{report.ohlc_violations:,}", report.ohlc_violations > 0),
        ("unreadable", f"{report.unreadable:,}", report.unreadable > 0),
        ("price <= 0", f"{report.non_positive:,}", report.non_positive > 0),
        ("columns", ", ".join(report.columns), False),
        ("sha256", report.sha256 or "none: not usable", report.sha256 is None),
    ]
    lines += [("ignored", ", ".join(report.ignored_columns), True)] if report.ignored_columns else []
    lines += [(fact.name, fact.sentence, fact.level != "note") for fact in report.facts]
    lines += [("suspected leak", leak.message, True) for leak in report.suspected_leaks]
    lines += [("too good", column.message, True) for column in report.implausible_columns]
    lines += [("problem", problem, True) for problem in report.problems]
    return lines
