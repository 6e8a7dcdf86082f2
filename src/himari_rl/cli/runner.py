"""himari run: Layer 2's signals in, journalled decisions out; and its kill switch.

himari run --bundle runs/btc/bundle --journal runs/live/journal.sqlite < signals.jsonl
himari run --url https://layer3-xyz.run.app --symbols BTC-USDT --journal runs/live/journal.sqlite --port 9000
himari run halt --journal runs/live/journal.sqlite --why "exchange is down"
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import click

from himari_rl.cli.options import Json, configured
from himari_rl.cli.signature import Option, make_command, make_group
from himari_rl.config import DEFAULT, Resolved

if TYPE_CHECKING:
    from himari_rl.runner.policies import AsksPolicy
    from himari_rl.runner.step import Runner
    from himari_rl.schema import Bars

JOURNAL = "runs/live/journal.sqlite"
PLAIN = ("run.rl_timeout_ms", "run.clock", "run.external_code", "portfolio.account", "portfolio.equity_usd")
Journal = Annotated[str, Option(help="The journal: an SQLite file, or postgresql://user@host/database.")]
Why = Annotated[str, Option(help="The reason, which the journal keeps.")]


@configured("run", *PLAIN)
def stream(
    context: click.Context,
    settings: Resolved,
    bundle: Annotated[list[str] | None, Option(help="Bundles or aliases in this process.")] = None,
    url: Annotated[str, Option(help="A policy server instead; needs --symbols.")] = "",
    symbols: Annotated[list[str] | None, Option(help="With --url: the policy's symbols, in its order.")] = None,
    interval: Annotated[str, Option(help="With --url: the interval of its bars.")] = "1h",
    signals: Annotated[str, Option(help="A file of JSON lines; - is standard input.")] = "-",
    port: Annotated[int | None, Option(help="Takes signals over HTTP instead; 0: a free port.")] = None,
    host: Annotated[str, Option(help="Address to listen on.")] = "127.0.0.1",
    reference: Annotated[str, Option(help="With --url: the bundle whose training data drift is against.")] = "",
    challenger: Annotated[list[str] | None, Option(help="Bundles that size their ab.share of accounts.")] = None,
    history: Annotated[list[str] | None, Option(help="Closed bars of before, so that windows are full.")] = None,
    journal: Journal = JOURNAL,
) -> None:
    """Sizes every signal: checked, asked within the deadline, limited, journalled, and only then told as a JSON line.

    Whatever fails, a signal is sized with exactly 1.0 and the cause. SIGTERM finishes the decision in hand.

    Example: himari run --bundle runs/btc/bundle --signals signals.jsonl --clock bar
    """
    if context.invoked_subcommand is not None:
        return
    import json
    import os
    import sys
    from collections.abc import Sequence
    from contextlib import ExitStack
    from time import monotonic

    from himari_rl.journal.store import open_journal
    from himari_rl.policy.bundle import read_manifest
    from himari_rl.runner.loop import Endpoint, Loop
    from himari_rl.runner.step import Decision, Runner

    def tell(decisions: Sequence[Decision]) -> None:
        for each in decisions:
            sys.stdout.write(json.dumps(each) + "\n")
        sys.stdout.flush()

    with ExitStack() as stack:
        kept = stack.enter_context(open_journal(journal))
        policies = _policies(settings, bundle or [], url, symbols or [], interval)
        for each in policies:
            stack.callback(each.close)
            if reference:
                each.drift = read_manifest(reference).drift
        risk = {
            key.removeprefix("risk."): setting.value
            for key, setting in settings.settings.items()
            if key.startswith("risk.") and setting.origin != DEFAULT
        }
        portfolio = settings["portfolio"]
        split = {"challengers": _local(challenger or []), "ab": settings["ab"]}
        histories = _histories(history or [], [symbol for each in policies for symbol in each.symbols])
        runner = Runner(policies, kept, settings["run"], portfolio, settings["halt"], risk, histories, **split)
        loop = Loop(runner, tell)
        stack.enter_context(loop.stopped_by_signals())
        if port is not None:
            endpoint = Endpoint(loop, runner, host, port)
            stack.callback(endpoint.server_close)
            click.echo(f"Listening  {endpoint.url}/signals  (journal {journal}, stop with Ctrl-C)", err=True)
        elif signals == "-":
            loop.feed(sys.stdin.fileno())
        else:
            descriptor = _opened(signals)
            stack.callback(os.close, descriptor)
            loop.feed(descriptor)
        began = monotonic()
        loop.run()
        click.echo(_summary(runner, monotonic() - began), err=True)


def halt(why: Why, journal: Journal = JOURNAL, as_json: Json = False) -> None:
    """Halts every runner on a journal, at once and through restarts, until somebody resumes.

    Example: himari run halt --why "the exchange is down"
    """
    _switch("halt", why, journal, as_json)


def resume(why: Why, journal: Journal = JOURNAL, as_json: Json = False) -> None:
    """Ends every halt on a journal.

    Example: himari run resume --why "the exchange is back, positions checked"
    """
    _switch("resume", why, journal, as_json)


def _switch(kind: str, why: str, place: str, as_json: bool) -> None:
    import json

    from himari_rl.journal.store import open_journal
    from himari_rl.runner.config import HaltConfig
    from himari_rl.runner.halt import Switch, by_hand

    with open_journal(place, create=kind == "halt") as journal:
        journal.append([by_hand(kind, why)])
        switch = Switch(journal, HaltConfig())
        switch.refresh()
    if as_json:
        click.echo(json.dumps({"halted": [vars(each) for each in switch.active]}))
    else:
        now = "; ".join(f"{each.strategy} {each.cause}: {each.why}" for each in switch.active)
        click.echo(f"halted: {now}" if now else "nothing is halted")


def _policies(settings: Resolved, bundles: list[str], url: str, symbols: list[str], interval: str) -> list[AsksPolicy]:
    from himari_rl.data.checks import interval_ms
    from himari_rl.errors import ConfigError
    from himari_rl.policy.code import allow_code
    from himari_rl.runner.policies import CloudPolicy

    if bool(bundles) == bool(url):
        raise ConfigError("no policy" if not url else "bundles and a URL", "--bundle or --url", "choose one of them")
    if not url:
        allow_code(settings["run"].external_code)
        return _local(bundles)
    if not symbols:
        raise ConfigError("--url without --symbols", "the policy's symbols", "give them in its order, as /ready does")
    made = CloudPolicy(url, symbols, interval_ms(interval), settings["run"])
    if made.trouble:
        click.echo(f"himari run: {made.trouble}", err=True)
    elif not settings["run"].keep_warm_s:
        click.echo("himari run: a server that scales to zero makes the first call after a pause fall back", err=True)
    return [made]


def _local(bundles: list[str]) -> list[AsksPolicy]:
    """Bundles or aliases, in this process."""
    from himari_rl.policy.alias import bundle_of, read_alias
    from himari_rl.policy.runtime import load_policy
    from himari_rl.runner.policies import LocalPolicy

    places = [bundle_of(read_alias(each), each) if each.endswith(".json") else each for each in bundles]
    return [LocalPolicy(load_policy(each)) for each in places]


def _histories(places: list[str], symbols: list[str]) -> dict[str, Bars]:
    from himari_rl.data.sources import load_bars
    from himari_rl.errors import ConfigError

    found = {place: load_bars(place) for place in places}
    for place, bars in found.items():
        if bars.symbol not in symbols:  # it would fill nobody's windows
            cure = f"name the file after the symbol, as {symbols[0]}_1h.csv"
            raise ConfigError(f"--history {place} is of {bars.symbol}", f"bars of {', '.join(symbols)}", cure)
    return {bars.symbol: bars for bars in found.values()}


def _opened(place: str) -> int:
    import os

    from himari_rl.errors import StorageError
    from himari_rl.storage import is_remote
    from himari_rl.storage.mirror import fetched

    file = fetched(place) if is_remote(place) else place
    try:
        return os.open(file, os.O_RDONLY)
    except OSError as error:
        raise StorageError(f"cannot read {place}: {error.strerror}", "a file of JSON lines") from error


def _summary(runner: Runner, elapsed_s: float) -> str:
    counts = runner.counts
    fallbacks = ", ".join(f"{number} {cause}" for cause, number in sorted(counts.causes.items())) or "none"
    refused = ", ".join(f"{number} {reason}" for reason, number in sorted(counts.rejections.items())) or "none"
    number = sum(counts.sources.values())
    decided = f"{number:,} decisions, {number / max(elapsed_s, 1e-9):,.0f} a second"
    answers = ", ".join(f"P{100 * q:g} {counts.latency_ms(q):.2f} ms" for q in (0.5, 0.99, 0.999))
    return f"himari run: {decided}; answers {answers}; fallbacks: {fallbacks}; refused: {refused}"


def register(app: click.Group) -> None:
    """Adds `himari run`."""
    group = make_group("run", function=stream(), invoke_without_command=True)
    for command in (halt, resume):
        group.add_command(make_command(command))
    app.add_command(group)
