"""What the trial ledger says of a walk-forward now: how many looks, whether it is whole, what was registered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from himari_rl.errors import StorageError
from himari_rl.release.rules import GateRules
from himari_rl.trials.ledger import NO_LEDGER, Trials, has_ledger, ledger_place
from himari_rl.trials.register import rules_differ

CURE = "name the ledger that there is in HIMARI_TRIALS, or say --new-ledger"


@dataclass(frozen=True, kw_only=True)
class Looks:
    """The ledger's answer about one walk-forward."""

    number: int
    """Looks at the returns that it was judged on, its own included."""
    counted: bool
    """Whether there is a whole ledger to count in."""
    why: str
    exception: str = ""
    """What was accepted by hand, where something was."""


def looks_at(document: Mapping[str, Any], rules: GateRules, *, new_ledger: bool = False) -> Looks:
    """Counts in the ledger there is; without one it refuses, unless a new one is asked for.

    Raises:
        StorageError: the ledger cannot be read.
    """
    known = int(document["judgement"]["verdict"]["trials"])
    begun = not has_ledger()
    if begun and not new_ledger:
        return Looks(number=known, counted=False, why=f"no trial ledger at {ledger_place()}: {NO_LEDGER}; {CURE}")
    span, look = document["span"], document.get("look", "")
    with Trials() as trials:
        if begun and look:
            trials.look("gate", **span, what=look)
        try:
            trials.verify()
        except StorageError as broken:
            return Looks(number=known, counted=False, why=str(broken))
        own = trials.seen_by(look) if look else None
        if own is not None:
            number = trials.count(own.market, own.first_ms, own.last_ms, own.paths)
        else:  # judged beside another ledger: one look more than are here
            number = trials.count(**span) if not look else len(trials.history(**span)) + 1
        registration = _registration(trials, document, rules)
    said = f"{max(known, number)} look{'s' * (max(known, number) > 1)} at these returns; {registration}"
    if look and own is None:
        said += "; this run was judged beside another ledger"
    exception = f"a new trial ledger begins at {ledger_place()}: {NO_LEDGER}" if begun else ""
    return Looks(number=max(known, number), counted=True, why=said, exception=exception)


def _registration(trials: Trials, document: Mapping[str, Any], rules: GateRules) -> str:
    """The document's own line, and what has changed since: rules of the gate, and looks."""
    registration = document.get("registration") or {}
    said = str(registration.get("line", "not registered"))
    if registration.get("registered"):
        changed = rules_differ(trials, registration["hash"], asdict(rules))
        said += f"; rules not as registered: {', '.join(changed)}" if changed else ""
    return said
