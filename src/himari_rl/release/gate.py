"""The gate: every rule is one line with its number, threshold, interval, pass or refuse, and why.

The evidence is the walk-forward that made the bundle (its folder's parent), whose digests are in the bundle's manifest;
its figures are computed again from its curves (evidence.py). A policy that the walk-forward did not write has no
evidence and is refused. One refusal refuses; none is outvoted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from himari_rl.evaluation.backtest import POLICY
from himari_rl.evaluation.baselines import CASH
from himari_rl.evaluation.control import own_deflated
from himari_rl.evaluation.one_liners import BEST
from himari_rl.evaluation.record import CURVES, DOCUMENT, has_evidence, read_curves, read_run, require_evidence
from himari_rl.evaluation.statements import KEEP_ONE, Found, found_in, instead, statements
from himari_rl.policy.bundle import Manifest, amend, read_manifest
from himari_rl.policy.runtime import load_policy
from himari_rl.release.comparisons import LSTM_GAIN, champion_lines, portfolio_lines
from himari_rl.release.evidence import examined, objections_in_words
from himari_rl.release.lines import Line, fails, line
from himari_rl.release.looks import Looks, looks_at
from himari_rl.release.rules import GateRules, load_rules
from himari_rl.release.shipped import shipped_lines
from himari_rl.release.statistical import TOO_GOOD, accepted, controls, leaks, numbers, plausible
from himari_rl.storage import is_remote
from himari_rl.storage.mirror import inside, workplace

LATENCY_DECISIONS = 300


@dataclass(frozen=True, kw_only=True)
class GateAnswer:
    """All rules on one bundle."""

    bundle: str
    version: str
    weights_sha256: str
    passed: bool
    lines: tuple[Line, ...]
    reason: str
    exceptions: tuple[str, ...] = ()  # what somebody has taken on himself: an accepted leak, a threshold of his own
    ledger: str = ""  # costs and limits that the policy was judged with
    statements: tuple[str, ...] = ()  # better than 1.0, the best one-liner, cash? from the gate's own figures
    instead: str = KEEP_ONE  # what to do without this policy

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        from himari_rl.evaluation.terminal import wrapped

        page = [wrapped(f"ledger: {self.ledger}")]
        for each in self.lines:
            page += [f"{'pass  ' if each.passed else 'REFUSE'}  {each.head}", wrapped(f"        {each.why}", 8)]
        page += [wrapped(said) for said in self.statements]
        page += [f"by hand {exception}" for exception in self.exceptions]
        return "\n".join([*page, wrapped(f"{self.version}: {self.reason}")])

    def __repr__(self) -> str:
        return f"<GateAnswer on {self.version}: {self.reason}>"


def gate(
    bundle: str | Path,
    rules: GateRules | None = None,
    *,
    champion: str | Path | None = None,
    run: str | Path | None = None,
    leak_reason: str | None = None,
    new_ledger: bool = False,
    implausible_reason: str | None = None,
    signer: str | Path | None = None,
    latency_ms: Callable[[str | Path, Manifest], float] | None = None,
) -> GateAnswer:
    """Asks every rule of a bundle; what `himari gate` does, same defaults.

    Args:
        bundle: of a walk-forward, RUN/bundle.
        rules: thresholds; config/gates.yaml where it is, else the built-in ones.
        champion: bundle to compare with on the same bars; an LSTM needs the base one, and no other will do.
        run: the walk-forward that made the bundle; its parent folder if not given.
        leak_reason: why a suspected leak of a supplied column is none; it is written into the answer.
        new_ledger: begins a trial ledger where there is none, which is refused otherwise.
        implausible_reason: why a result that is too good is true; it passes nothing that a named test has caught.
        signer: PEM file of the public key that the walk-forward's bundle, and with it the evidence, is signed with.
        latency_ms: measures a decision; the real clock if not given.

    Raises:
        BundleError: a damaged bundle, one that `signer` did not sign, or a champion its walk-forward did not write.
        StorageError: there is no walk-forward, or it was changed.
        ConfigError: a comparison of walk-forwards of different bars.

    >>> from himari_rl import PPOConfig, walk_forward
    >>> from himari_rl.data.synthetic import synthetic_bars
    >>> small = PPOConfig(num_envs=20, hidden_dim=8, minibatch=500)
    >>> options = {"train": "30d", "test": "10d", "step": "10d", "purge_bars": 24, "num_episodes": 2, "seeds": 1}
    >>> answer = gate(walk_forward(synthetic_bars(2000, 0), out="gate", agent=small, folds=1, **options).bundle)
    >>> answer.passed, [line.rule for line in answer.lines if line.rule == "recorded data" and not line.passed]
    (False, ['recorded data'])
    """
    rules = load_rules() if rules is None else rules
    if any(path is not None and is_remote(path) for path in (bundle, champion, run)):
        asked: dict[str, Any] = {"leak_reason": leak_reason, "new_ledger": new_ledger, "signer": signer}
        asked |= {"implausible_reason": implausible_reason, "latency_ms": latency_ms}
        with ExitStack() as places:
            here = places.enter_context(inside(bundle, DOCUMENT, CURVES))
            beside = None if run is None else places.enter_context(workplace(run))
            rival = None if champion is None else places.enter_context(inside(champion, DOCUMENT, CURVES))
            answer = gate(here, rules, champion=rival, run=beside, **asked)
        return replace(answer, bundle=str(bundle))
    manifest = read_manifest(bundle)
    place = Path(run) if run is not None else Path(bundle).parent
    if not has_evidence(place, manifest):
        why = "no walk-forward made this bundle: himari walk-forward trains and judges one that has its evidence"
        return _answer(bundle, manifest, [fails("evidence", 0.0, why)], (), None)
    require_evidence(place, manifest)
    if signer is not None:
        _vouched(manifest, signer)
    curves = read_curves(place)
    objections, document = examined(read_run(place), curves)
    looks = looks_at(document, rules, new_ledger=new_ledger)
    document["judgement"] = _as_of_now(document, curves, looks.number)
    lines = [*_evidence(document, manifest, objections), *numbers(document, rules)]
    if manifest.external is None or manifest.external.ships:
        lines += shipped_lines(bundle, curves, document["judgement"]["verdict"], rules)
        measured = (latency_ms or median_latency_ms)(bundle, manifest)
    else:
        lines.append(fails("ships", 0.0, "it goes by the clock or remembers from bar to bar: no server can ask it"))
        measured = 0.0
    lines += [*controls(document), *leaks(document, leak_reason), *plausible(document, rules, implausible_reason)]
    lines.append(line("trial ledger", float(looks.counted), ">=", 1.0, looks.why))
    if manifest.kind == "multi":
        lines += portfolio_lines(document, curves, rules)
    other = None
    if champion is not None:
        other = read_manifest(champion)
        lines += champion_lines(document, curves, other, Path(champion).parent, rules)
    if manifest.kind == "lstm" and (other is None or other.kind != "base"):
        lines.append(fails(LSTM_GAIN, rules.min_lstm_gain, "an LSTM is compared with a base: give its --champion"))
    lines.append(line("latency ms", measured, "<=", rules.max_latency_ms, "median of one decision on this machine"))
    exceptions = _exceptions(document, rules, lines, looks, leak_reason, implausible_reason)
    return _answer(bundle, manifest, lines, exceptions, found_in(document["judgement"]["verdict"], BEST, CASH))


def _answer(
    bundle: str | Path, manifest: Manifest, lines: Sequence[Line], exceptions: tuple[str, ...], found: Found | None
) -> GateAnswer:
    refused = [each.rule for each in lines if not each.passed]
    return GateAnswer(
        bundle=str(bundle),
        version=manifest.version,
        weights_sha256=manifest.weights_sha256,
        passed=not refused,
        lines=tuple(lines),
        reason=f"refused by {', '.join(refused)}" if refused else f"all {len(lines)} rules passed",
        exceptions=exceptions,
        ledger=manifest.ledger.config.describe(),
        statements=() if found is None else tuple(map(str, statements(found))),
        instead=KEEP_ONE if found is None else instead(found.one),
    )


def record(bundle: str | Path, answer: GateAnswer) -> Manifest:
    """Writes what the gate said into the bundle's manifest.

    Raises:
        BundleError: the bundle is damaged. StorageError: it cannot be written.
    """
    return amend(bundle, gate={"passed": answer.passed, "reason": answer.reason, "exceptions": list(answer.exceptions)})


def _vouched(manifest: Manifest, signer: str | Path) -> None:
    """The signature is over the manifest, which holds the digests of judgement and curves: it vouches for both."""
    from himari_rl.policy.signature import public_key, verify

    verify(manifest, public_key(signer))


def median_latency_ms(bundle: str | Path, manifest: Manifest) -> float:
    """Median time of `decide` on this machine."""
    policy = load_policy(bundle)
    state = np.zeros(manifest.state_dim)
    memory = policy.initial_memory() if policy.memory_size else None
    taken = []
    for _ in range(LATENCY_DECISIONS):
        started = time.perf_counter()
        policy.decide(state, memory)
        taken.append(time.perf_counter() - started)
    return 1000.0 * float(np.median(taken))


def _exceptions(
    document: Mapping[str, Any],
    rules: GateRules,
    lines: Sequence[Line],
    looks: Looks,
    leak_reason: str | None,
    implausible_reason: str | None,
) -> tuple[str, ...]:
    usual = asdict(GateRules())
    own = [
        f"{name} {value:g}, usually {usual[name]:g}" for name, value in asdict(rules).items() if value != usual[name]
    ]
    if document["leaks"] and accepted(leak_reason):
        own.append(f"leak accepted: {leak_reason}")
    taken = [each.rule for each in lines if each.rule.startswith("plausible") and TOO_GOOD in each.why]
    if taken and accepted(implausible_reason):
        own.append(f"implausible accepted ({', '.join(taken)}): {implausible_reason}")
    if looks.exception:
        own.append(looks.exception)
    return tuple(own)


def _evidence(document: Mapping[str, Any], manifest: Manifest, objections: list[str]) -> list[Line]:
    data = manifest.training_data
    if document["bundle"]["model_version"] != manifest.version:
        objections = ["this is not the policy that the walk-forward wrote", *objections]
    if list(document["symbols"]) != list(manifest.symbols):
        objections = [*objections, f"the document is of {document['symbols']}, the bundle of {list(manifest.symbols)}"]
    seeds, folds = len(manifest.seeds), len(document["folds"])
    why = (
        f"judged: the policies of {folds} fold{'s' * (folds != 1)}, each trained before its test rows; ships: "
        f"{manifest.version}, {seeds} seed{'s' * (seeds != 1)} trained on the newest window, {data.start} to {data.end}"
    )
    lines = [line("evidence", len(objections), "<=", 0.0, objections_in_words(objections) or why)]
    real = not (document["data"]["synthetic"] or data.synthetic)
    why = "judged on recorded bars" if real else "judged on synthetic bars, which say nothing about a market"
    return [*lines, line("recorded data", float(real), ">=", 1.0, why)]


def _as_of_now(document: Mapping[str, Any], curves: Mapping[str, np.ndarray], looks: int) -> dict[str, Any]:
    """The judgement, deflated for every look at the span since: the first of many runs was not the only one."""
    judgement = dict(document["judgement"])
    if looks > judgement["verdict"]["trials"]:
        judgement["verdict"] = judgement["verdict"] | {"trials": looks}
        judgement["own_deflated_sharpe"] = own_deflated(curves[f"growth/{POLICY}"], looks)
    return judgement
