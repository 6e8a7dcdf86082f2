"""The run card: one HTML file that is read in a minute, needs no network, and follows the reader's light or dark.

The order is the order of doubt: the verdict in a sentence, expected and measured, the gate's lines, the curves, what
was earned and done, the controls, what was tried, in what it was judged, what it cost. All numbers come from the run's
folder; what the policy does is asked of the bundle that stands there. The sections are card/'s, and so is the look.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from himari_rl.card import robustness, setup
from himari_rl.card.blocks import (
    Cell,
    Folded,
    Grid,
    Page,
    Prose,
    Row,
    Section,
    number,
    verdict_mark,
)
from himari_rl.card.pages import shared, verdict
from himari_rl.card.source import Source
from himari_rl.card.template import render
from himari_rl.evaluation.record import BUNDLE, COST, SUMMARY, read_curves, read_document, read_run
from himari_rl.policy.bundle import read_manifest
from himari_rl.policy.runtime import load_policy
from himari_rl.release.gate import GateAnswer
from himari_rl.storage import read_bytes


def report_page(run: str | Path, answer: GateAnswer) -> str:
    """The page of a finished walk-forward with its gate's answer.

    Raises:
        StorageError: the folder is no finished walk-forward. ConfigError: Jinja2 is not installed.
    """
    document = read_run(run)
    bundle = Path(run) / BUNDLE
    cost = json.loads(read_bytes(Path(run) / COST))
    source = _source(document, run)
    sections, drawn = shared(source)
    expected, *rest = sections
    found = document["judgement"]["verdict"]
    kind, count, data = document["kind"], len(document["folds"]), document["data"]
    registered = (document.get("registration") or {}).get("line", "not registered")
    why = [f"Why refused: {_why(answer)}."] if not answer.passed else []
    span = f"{found['start']} to {found['end']}"
    page = Page(
        what=f"himari run card, {kind} policy",
        title=f"{', '.join(document['symbols'])}, {kind}: {count} fold{'s' * (count != 1)}",
        subtitle=f"{answer.version}: {found['decisions']:,} decisions out of sample, {span}",
        sections=[
            verdict(source, _mark(answer), [*why, *_whose(answer)], synthetic=data["synthetic"]),
            expected,
            _gate(answer),
            *rest,
            robustness.folds(document["folds"]),
            robustness.trials(found["trials"], registered, cost["trials"]),
            setup.ledger(source.ledger),
            setup.facts(source.facts, source.accepted, _data(data)),
            setup.settings(document.get("settings", {}), document.get("settings_hash", "")),
            setup.cost(cost, document.get("budget", "")),
            *_later_look(bundle / SUMMARY),
        ],
        **drawn,
    )
    return render(page)


def _source(document: Mapping[str, Any], run: str | Path) -> Source:
    bundle = Path(run) / BUNDLE
    manifest = read_manifest(bundle)
    external = manifest.external
    policy = load_policy(bundle) if external is None or external.ships else None  # past decisions answer nothing new
    return Source(
        symbols=document["symbols"],
        verdict=document["judgement"]["verdict"],
        controls=document["judgement"]["controls"],
        detectable=document["judgement"]["detectable"],
        curves=read_curves(run),
        ledger=manifest.ledger.config,
        facts=document.get("facts", ()),
        accepted=document.get("accepted", ()),
        policy=policy,
        own_features=manifest.own_features,
        lag_profile=document.get("lag_profile"),  # runs of old have none
    )


def _mark(answer: GateAnswer) -> Cell:
    return (
        Cell("✓ Promotable: the gate passed it", "better") if answer.passed else Cell("✕ Refused by the gate", "worse")
    )


def _why(answer: GateAnswer) -> str:
    refused = [line for line in answer.lines if not line.passed]
    return "; ".join(
        f"{line.rule} {line.number:.3g} (must be {line.comparison} {line.threshold:g})" for line in refused
    )


def _whose(answer: GateAnswer) -> list[str]:
    """Which policies were judged and which one ships, or what is wrong with the evidence; what somebody took on."""
    found = [f"{line.why[:1].upper()}{line.why[1:]}." for line in answer.lines if line.rule == "evidence"]
    return [*found, *(f"By hand: {exception}." for exception in answer.exceptions)]


def _gate(answer: GateAnswer) -> Section:
    rows: list[Row] = []
    for line in answer.lines:
        interval = (
            "" if line.lower is None else f"{number(line.lower, 3, sign=True)} to {number(line.upper, 3, sign=True)}"
        )
        demand = f"{line.comparison} {line.threshold:g}".replace(">=", "≥").replace("<=", "≤")
        rows.append([line.rule, number(line.number, 3), demand, interval, verdict_mark(line.passed), line.why])
    head = ("rule", "number", "must be", "95 % interval", "", "why")
    reason = answer.reason.replace("refused by ", "refused by: ")
    blocks: list[Any] = [Prose(lines=[f"{reason[:1].upper()}{reason[1:]}."])]
    prose = frozenset({4, 5})
    stopped = [row for row, line in zip(rows, answer.lines, strict=True) if not line.passed]
    passed = [row for row, line in zip(rows, answer.lines, strict=True) if line.passed]
    if stopped:
        blocks.append(Grid(head=head, rows=stopped, prose=prose))
    if passed:
        said = f"{len(passed)} rule{'s' * (len(passed) != 1)} passed"
        blocks.append(Folded(summary=said, blocks=[Grid(head=head, rows=passed, prose=prose)]))
    return Section(name="gate", short="gate", title="The gate's rules", blocks=blocks)


def _data(data: Mapping[str, Any]) -> dict[str, Any]:
    """What identifies the data; of its place the name alone, for the page goes to others."""
    shown = {name: value for name, value in data.items() if name not in ("source", "interval_ms", "synthetic")}
    if "interval_ms" in data:
        shown["interval"] = f"{data['interval_ms'] / 60_000:g} minutes"
    names = [Path(each).name for each in data["source"].split(", ")]
    return {f"file{'s' * (len(names) > 1)}": ", ".join(names), **shown}


def _later_look(path: Path) -> Sequence[Section]:
    """What `himari evaluate` said of the shipped policy on other bars, with what sets those bars apart; [] if never."""
    if not path.exists():
        return []
    found = read_document(path)
    lines = [found["verdict"]["sentence"], *found.get("notes", ())]
    return [
        Section(
            name="later",
            title=f"The shipped policy on {found['data']['symbol']}, as evaluated",
            blocks=[Prose(lines=lines)],
        )
    ]
