"""himari ab: two policies on one stream of signals, until it has been shown which one is better.

himari ab plan --sharpe 0.2 --accounts 6
himari ab run runs/live/journal.sqlite --challenger runs/new/bundle --out runs/live/ab.sqlite
himari ab status runs/live/ab.sqlite
himari ab report runs/live/ab.sqlite --json
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import click

from himari_rl.cli.options import Json, configured
from himari_rl.cli.signature import Argument, Option, make_command, make_group
from himari_rl.config import Resolved

if TYPE_CHECKING:
    from himari_rl.runner.verdict import AbReport, Shown

PLAIN = ("ab.mode", "ab.measure", "ab.alpha")
Kept = Annotated[str, Argument(metavar="EXPERIMENT", help="What --out of `himari ab run` named.")]


@configured("ab", *PLAIN)
def plan(
    settings: Resolved,
    experiment: Annotated[str, Option(help="An experiment whose own deviations are used.")] = "",
    sharpe: Annotated[float, Option(min=0.001, help="Difference in Sharpe ratio that is to be seen.")] = 0.2,
    correlation: Annotated[float, Option(min=-1.0, max=1.0, help="Of both policies on the same signals.")] = 0.95,
    accounts: Annotated[int, Option(min=1, help="Strategies times symbols.")] = 6,
    between: Annotated[float, Option(min=0.0, max=1.0, help="Correlation of two accounts.")] = 0.6,
    interval: Annotated[str, Option(help="Of the bars.")] = "1h",
    as_json: Json = False,
) -> None:
    """How many weeks show a difference with a power of 80 %: on the same signals, and split.

    Example: himari ab plan --sharpe 0.2 --accounts 6
    """
    import json

    from himari_rl.data.checks import interval_ms
    from himari_rl.journal.store import open_journal
    from himari_rl.runner.verdict import power_plan, seen_deviations

    given: dict[str, Any] = {"correlation": correlation, "accounts": accounts, "between": between}
    length = interval_ms(interval)
    if experiment:
        with open_journal(experiment, create=False) as kept:
            length, given = seen_deviations(kept)
    found = power_plan(sharpe, settings["ab"], length, **given)
    weeks = dict(zip(("paired_weeks", "split_weeks"), found.weeks, strict=True))
    if as_json:
        finite = {name: value if value < float("inf") else None for name, value in weeks.items()}
        click.echo(json.dumps({"sharpe": sharpe} | finite | given))
        return
    click.echo(str(found))
    click.echo(
        f"policies correlate {given['correlation']:.3f}, {given['accounts']} accounts {given['between']:.2f}; "
        f"alpha {settings['ab'].alpha:g}, power 80 %"
    )


@configured("ab", *PLAIN)
def run(
    settings: Resolved,
    journal: Annotated[str, Argument(metavar="JOURNAL", help="The runner's journal.")],
    challenger: Annotated[str, Option(help="The challenger's bundle or alias.")],
    champion: Annotated[str, Option(help="Split: the champion's bundle, to compare on every signal too.")] = "",
    out: Annotated[str, Option(help="The experiment's own journal.")] = "runs/live/ab.sqlite",
    follow: Annotated[bool, Option("--follow", help="Goes on until a verdict, Ctrl-C or SIGTERM.")] = False,
    as_json: Json = False,
) -> None:
    """Sizes every signal of a runner's journal with both policies and keeps what came of it.

    Exit code 1 where the challenger is shown to be worse: stopped for harm; a split's accounts of it are halted.

    Example: himari ab run runs/live/journal.sqlite --challenger runs/new/bundle --follow
    """
    from himari_rl.cli.runner import _local
    from himari_rl.journal.store import open_journal
    from himari_rl.runner.ab import Experiment
    from himari_rl.runner.follow import follow_until_stopped
    from himari_rl.runner.verdict import WORSE, settle

    with open_journal(journal, create=False) as live, open_journal(out) as kept:
        [asked] = _local([challenger])
        own = _local([champion])[0] if champion else None
        experiment = Experiment(live, kept, asked, own, settings["ab"])
        experiment.catch_up()
        found = settle(kept, live)
        if follow:
            found = follow_until_stopped(experiment, found)
    _tell(found, as_json)
    if found.verdict == WORSE:
        raise click.exceptions.Exit(1)


def status(experiment: Kept, as_json: Json = False) -> None:
    """One line: the difference so far, and whether it has been shown.

    Example: himari ab status runs/live/ab.sqlite
    """
    from himari_rl.runner.verdict import sentence

    found = _report(experiment)
    if as_json:
        _tell(found, as_json)
    else:
        click.echo(sentence(found))


def report(experiment: Kept, as_json: Json = False) -> None:
    """Both policies, their difference on the same signals and between accounts, and what may be concluded.

    Example: himari ab report runs/live/ab.sqlite
    """
    _tell(_report(experiment), as_json)


def _report(place: str) -> AbReport:
    from himari_rl.journal.store import open_journal
    from himari_rl.runner.verdict import report as found

    with open_journal(place, create=False) as kept:
        kept.verify()
        return found(kept)


def _tell(found: AbReport, as_json: bool) -> None:
    import json
    from dataclasses import asdict

    from himari_rl.runner.verdict import sentence

    if as_json:
        click.echo(json.dumps(_finite(asdict(found) | {"sentence": sentence(found)})))
        return
    click.echo(sentence(found))
    click.echo(f"{'':<12} {'growth a year':>14} {'Sharpe':>8}  version")
    for name, version in (("champion", found.champion or "as journalled"), ("challenger", found.challenger)):
        click.echo(f"{name:<12} {found.growth[name]:>+14.2%} {found.sharpe[name]:>8.2f}  {version}")
    for name, shown in (("same signals", found.paired), ("split", found.split)):
        if shown is not None:
            click.echo(_line(name, shown))
    fallbacks = ", ".join(f"{count} {cause}" for cause, count in sorted(found.fallbacks.items())) or "none"
    click.echo(f"bars that neither sized: {fallbacks}")
    click.echo("assumed: stationary differences of finite variance that are forgotten within the longest blocks")


def _line(name: str, shown: Shown) -> str:
    return (
        f"{name:<12} {shown.difference:>+14.2%} a year, {shown.lower:+.2%} to {shown.upper:+.2%}, {shown.bars:,} bars"
    )


def _finite(value: Any) -> Any:
    """NaN and infinity as null, which JSON has not."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    return None if isinstance(value, float) and not abs(value) < float("inf") else value


def register(app: click.Group) -> None:
    """Adds `himari ab`."""
    group = make_group("ab", "Two policies on one stream: plan, run, status, report.")
    for command in (plan(), run()):
        group.add_command(make_command(command))
    for plain in (status, report):
        group.add_command(make_command(plain))
    app.add_command(group)
