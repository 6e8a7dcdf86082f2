"""Pre-registration: span, settings and rules are written into the ledger before the result is known.

    freeze(trials, frozen, "BTC-USDT", first_ms, last_ms)       himari register --config run.yaml --span A..B
    standing(trials, *span_of(bars), settings, paths=...)       what a judged look says of itself

One judged look at a registered span is a test of what was registered. A second one, a span looked at before it was
registered, or another setting is not, and every document and card says so with the number or the key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from himari_rl.config import config_hash
from himari_rl.errors import ConfigError
from himari_rl.schema import DAY_MS
from himari_rl.trials.ledger import ANY_MARKET, REGISTER, Trial, Trials, different

RULES, EVALUATION = "gate.", "evaluate."
"""Prefixes of the keys that the gate and `himari evaluate` compare; all others are the walk-forward's."""
_LEAST_SHARE = 0.5
"""A look at less of the registered span is one at another span."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a judged look stands to what was registered."""

    registered: int = 0
    """Registrations of this span of these returns; 0 is none."""
    at: str = ""
    hash: str = ""
    judged: int = 0
    """Different looks at the registered span since it was registered, this one included."""
    looks_before: int = 0
    """Looks at the span before it was registered."""
    share: float = 1.0
    """Of the registered span, how much this look covers."""
    differs: tuple[str, ...] = ()
    """Keys whose value is not the registered one."""

    @property
    def line(self) -> str:
        """What is said of it, in one line."""
        if not self.registered:
            return "not registered"
        times = "once" if self.registered == 1 else f"{self.registered} times"
        said = [f"registered {self.at[:16]}Z ({self.hash})"]
        if self.looks_before:
            said.append(f"after {self.looks_before} look{'s' * (self.looks_before > 1)} at that span")
        said.append(f"not as registered: {', '.join(self.differs)}" if self.differs else "as registered")
        if self.judged > 1 or self.registered > 1:
            said.append(f"judged {self.judged} time{'s' * (self.judged > 1)}; registered {times}")
        if self.share < 0.99:
            said.append(f"{100 * self.share:.0f} % of the registered span")
        return "; ".join(said)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"differs": list(self.differs), "line": self.line}


def freeze(
    trials: Trials,
    frozen: Mapping[str, Any],
    market: str,
    first_ms: int,
    last_ms: int,
    paths: Sequence[str] = (),
) -> Standing:
    """Writes a registration.

    Args:
        frozen: settings with `gate` and `evaluate` among them.
        market: symbols, or ANY_MARKET where the data is not named.
    """
    settings = flat(frozen)
    before = trials.history(None if market == ANY_MARKET else market, first_ms, last_ms, paths)
    looks, digest = len(different(before)), config_hash(settings)
    detail = {"settings": settings, "looks_before": looks}
    trials.add(REGISTER, market, first_ms, last_ms, f"registered {digest}", detail, paths)
    count = 1 + sum(trial.purpose == REGISTER for trial in before)
    return Standing(registered=count, hash=digest, looks_before=looks, at=datetime.now(UTC).isoformat()[:19])


def standing(
    trials: Trials,
    market: str,
    first_ms: int,
    last_ms: int,
    settings: Mapping[str, Any],
    *,
    paths: Sequence[str] = (),
    partial: bool = False,
) -> Standing:
    """What was registered for a span that has just been judged; call it after the look is written.

    Args:
        settings: what was judged with.
        partial: compare only keys that both have, as for an evaluation of a bundle that was trained before.
    """
    found = [t for t in trials.history(market, first_ms, last_ms, paths) if t.purpose == REGISTER]
    found = [t for t in found if t.first_ms <= last_ms and t.last_ms >= first_ms]
    if not found:
        return Standing()
    mine = flat(settings)
    differing = {id(trial): differences(trial.detail["settings"], mine, partial=partial) for trial in found}
    chosen = min(found, key=lambda trial: len(differing[id(trial)]))  # the first of those that fit best
    rows = trials.history(market, found[0].first_ms, found[0].last_ms, paths)
    since = rows[_index(rows, found[0]) :]
    covered = max(0, min(last_ms, chosen.last_ms) - max(first_ms, chosen.first_ms))
    share = covered / max(1, chosen.last_ms - chosen.first_ms)
    inside = chosen.first_ms <= first_ms and last_ms <= chosen.last_ms
    differs = differing[id(chosen)] if inside and share >= _LEAST_SHARE else ("span", *differing[id(chosen)])
    return Standing(
        registered=len(found),
        at=chosen.at,
        hash=chosen.what.removeprefix("registered "),
        judged=max(1, len(different(since))),
        looks_before=int(chosen.detail["looks_before"]),
        share=share,
        differs=differs,
    )


def rules_differ(trials: Trials, digest: str, rules: Mapping[str, Any]) -> tuple[str, ...]:
    """Rules of the gate that are not those of the registration with this hash."""
    for trial in trials.history():
        if trial.purpose == REGISTER and trial.what == f"registered {digest}":
            frozen = {key: value for key, value in trial.detail["settings"].items() if key.startswith(RULES)}
            return _unequal(frozen, flat({RULES.rstrip("."): rules}), set(frozen))
    return ()


def differences(frozen: Mapping[str, Any], mine: Mapping[str, Any], *, partial: bool) -> tuple[str, ...]:
    """Keys whose values differ; the gate's own are compared by the gate."""
    if partial:
        return _unequal(frozen, mine, frozen.keys() & mine.keys())
    keys = frozen.keys() | mine.keys()
    return _unequal(frozen, mine, {key for key in keys if not key.startswith((RULES, EVALUATION))})


def _unequal(frozen: Mapping[str, Any], mine: Mapping[str, Any], keys: set[str]) -> tuple[str, ...]:
    absent = object()
    return tuple(sorted(key for key in keys if frozen.get(key, absent) != mine.get(key, absent)))


def flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings under dotted keys, with lists for tuples, as JSON gives them back."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{name}.")
        else:
            found[before + name] = list(value) if isinstance(value, tuple) else value
    return found


def parse_span(text: str) -> tuple[int, int]:
    """2024-01-01..2024-06-30 in ms UTC, both days included; times of day are taken as they are.

    Raises:
        ConfigError: no such span.
    """
    start, divider, end = text.partition("..")
    try:
        first, last = _moment(start), _moment(end) + (DAY_MS - 1 if len(end.strip()) == len("2024-06-30") else 0)
    except ValueError as error:
        raise ConfigError(f"--span {text}: {error}", "two dates", "for example 2024-01-01..2024-06-30") from error
    if not divider or first >= last:
        raise ConfigError(f"--span {text}", "a start before its end", "for example 2024-01-01..2024-06-30")
    return first, last


def _moment(text: str) -> int:
    parsed = datetime.fromisoformat(text.strip())
    return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp() * 1000)


def _index(rows: Sequence[Trial], trial: Trial) -> int:
    return next((i for i, each in enumerate(rows) if each == trial), 0)
