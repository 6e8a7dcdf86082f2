"""The gate: every rule is one line with its number, threshold, interval, pass or refuse, and why.

The evidence is the walk-forward that made the bundle (its folder's parent), whose digests are in the bundle's manifest;
a policy that the walk-forward did not write has no evidence and is refused. One refusal refuses; none is outvoted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from himari_rl.errors import BundleError, ConfigError
from himari_rl.evaluation.backtest import POLICY
from himari_rl.evaluation.baselines import ONE
from himari_rl.evaluation.control import NAMES, own_deflated
from himari_rl.evaluation.portfolio_baselines import EQUAL
from himari_rl.evaluation.record import read_curves, read_run, require_evidence
from himari_rl.policy.bundle import Manifest, amend, read_manifest
from himari_rl.policy.runtime import load_policy
from himari_rl.release.looks import Looks, looks_at
from himari_rl.release.rules import GateRules, load_rules
from himari_rl.schema import FloatArray

LATENCY_DECISIONS = 300
LSTM_GAIN = "LSTM over base"
SAME_BARS = 0.9


@dataclass(frozen=True, kw_only=True)
class Line:
    """One rule's answer."""

    rule: str
    number: float
    threshold: float
    comparison: str  # what `number` must be against `threshold`
    passed: bool
    why: str
    lower: float | None = None
    upper: float | None = None

    @property
    def head(self) -> str:
        """Rule, number, demand and interval in columns."""
        interval = "" if self.lower is None else f"{self.lower:+.3f} to {self.upper:+.3f}"
        return f"{self.rule:<20}{self.number:>8.3f}  {f'{self.comparison} {self.threshold:g}':<8}{interval}".rstrip()


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

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        from himari_rl.evaluation.terminal import wrapped

        page = [wrapped(f"ledger: {self.ledger}")]
        for line in self.lines:
            page += [f"{'pass  ' if line.passed else 'REFUSE'}  {line.head}", wrapped(f"        {line.why}", 8)]
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
        latency_ms: measures a decision; the real clock if not given.

    Raises:
        BundleError: a damaged bundle, or a champion that its walk-forward did not write.
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
    manifest = read_manifest(bundle)
    place = Path(run) if run is not None else Path(bundle).parent
    require_evidence(place, manifest)
    document, curves = read_run(place), read_curves(place)
    looks = looks_at(document, rules, new_ledger=new_ledger)
    document["judgement"] = _as_of_now(document, curves, looks.number)
    measured = (latency_ms or median_latency_ms)(bundle, manifest)
    lines = [*_evidence(document, manifest), *_numbers(document, rules), *_controls(document)]
    lines += _leaks(document, leak_reason)
    lines.append(_line("trial ledger", float(looks.counted), ">=", 1.0, looks.why))
    if manifest.kind == "multi":
        lines += _portfolio(document, curves, rules)
    rival = None
    if champion is not None:
        rival = read_manifest(champion)
        lines += _against(document, curves, rival, Path(champion).parent, rules)
    if manifest.kind == "lstm" and (rival is None or rival.kind != "base"):
        lines.append(_fails(LSTM_GAIN, rules.min_lstm_gain, "an LSTM is compared with a base: give its --champion"))
    lines.append(_line("latency ms", measured, "<=", rules.max_latency_ms, "median of one decision on this machine"))
    refused = [line.rule for line in lines if not line.passed]
    return GateAnswer(
        bundle=str(bundle),
        version=manifest.version,
        weights_sha256=manifest.weights_sha256,
        passed=not refused,
        lines=tuple(lines),
        reason=f"refused by {', '.join(refused)}" if refused else f"all {len(lines)} rules passed",
        exceptions=_exceptions(document, rules, leak_reason, looks),
        ledger=manifest.ledger.config.describe(),
    )


def record(bundle: str | Path, answer: GateAnswer) -> Manifest:
    """Writes what the gate said into the bundle's manifest.

    Raises:
        BundleError: the bundle is damaged. StorageError: it cannot be written.
    """
    return amend(bundle, gate={"passed": answer.passed, "reason": answer.reason, "exceptions": list(answer.exceptions)})


def statistical_lines(document: Mapping[str, Any], rules: GateRules) -> list[Line]:
    """The rules that need nothing but a walk-forward's document; benchmarks/gate_noise.py asks these of noise."""
    return [*_numbers(document, rules), *_controls(document), *_leaks(document, None)]


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


def _line(
    rule: str, number: float, comparison: str, threshold: float, why: str, interval: Mapping[str, float] | None = None
) -> Line:
    passed = number > threshold if comparison == ">" else number < threshold if comparison == "<" else False
    if comparison in (">=", "<="):
        passed = number >= threshold if comparison == ">=" else number <= threshold
    return Line(
        rule=rule,
        number=float(number),
        threshold=float(threshold),
        comparison=comparison,
        passed=bool(passed),  # NaN passes nothing
        why=why,
        lower=None if interval is None else float(interval["lower"]),
        upper=None if interval is None else float(interval["upper"]),
    )


def _fails(rule: str, threshold: float, why: str) -> Line:
    return Line(rule=rule, number=0.0, threshold=threshold, comparison=">", passed=False, why=why)


def _exceptions(
    document: Mapping[str, Any], rules: GateRules, leak_reason: str | None, looks: Looks
) -> tuple[str, ...]:
    usual = asdict(GateRules())
    own = [
        f"{name} {value:g}, usually {usual[name]:g}" for name, value in asdict(rules).items() if value != usual[name]
    ]
    leak = [f"leak accepted: {leak_reason}"] if document["leaks"] and (leak_reason or "").strip() else []
    return (*own, *leak, *([looks.exception] if looks.exception else []))


def _evidence(document: Mapping[str, Any], manifest: Manifest) -> list[Line]:
    same = document["bundle"]["model_version"] == manifest.version
    why = "the walk-forward wrote this policy" if same else "this is not the policy that the walk-forward wrote"
    lines = [_line("evidence", float(same), ">=", 1.0, why)]
    real = not document["data"]["synthetic"]
    why = "judged on recorded bars" if real else "judged on synthetic bars, which say nothing about a market"
    return [*lines, _line("recorded data", float(real), ">=", 1.0, why)]


def _numbers(document: Mapping[str, Any], rules: GateRules) -> list[Line]:
    judgement = document["judgement"]
    verdict = judgement["verdict"]
    multi = document["kind"] == "multi"
    own, utility = verdict["own"], verdict["utility"]
    least = rules.min_portfolio_sharpe if multi else rules.min_sharpe
    gain, training = utility["estimate"], judgement["training_gain"]
    retained = gain / training if training > 0.0 else 0.0
    scale = 1.0 / training if training > 0.0 else 0.0
    kept = {"lower": utility["lower"] * scale, "upper": utility["upper"] * scale}
    trials = verdict["trials"]
    why = "a year, out of sample"
    if EQUAL in verdict["less"]:
        why += f"; {_minus_equal(verdict['less'][EQUAL]['sharpe'])}"
    return [
        _line("portfolio Sharpe" if multi else "Sharpe", own["sharpe"]["estimate"], ">", least, why, own["sharpe"]),
        _line(
            "deflated Sharpe",
            judgement["own_deflated_sharpe"],
            ">",
            rules.min_deflated_sharpe,
            f"chance of a true Sharpe ratio above 0, given {trials} look{'s' * (trials > 1)} at this span",
        ),
        _line(
            "better than 1.0",
            utility["lower"],
            ">",
            0.0,
            f"paired utility a year {utility['estimate']:+.3f}; its 95 % interval must exclude 0",
            utility,
        ),
        _line("validation", retained, ">=", rules.min_retained, "out-of-sample share of the training advantage", kept),
        _line(
            "drawdown",
            own["drawdown"]["estimate"],
            "<",
            rules.max_drawdown,
            "deepest fall, marked at closes",
            own["drawdown"],
        ),
        _line("action spread", verdict["spread"], ">=", rules.min_spread, "a collapsed policy answers the same"),
        _line("saturation", verdict["saturation"], "<=", rules.max_saturation, "share of multipliers at a bound"),
    ]


def _controls(document: Mapping[str, Any]) -> list[Line]:
    found = {control["name"]: control for control in document["judgement"]["controls"]}
    missing = {"passed": False, "sentence": "was not run: a verdict without its controls is none"}
    asked = {name: found.get(name, missing) for name in NAMES}
    return [_line(f"control: {n}", float(c["passed"]), ">=", 1.0, c["sentence"]) for n, c in asked.items()]


def _as_of_now(document: Mapping[str, Any], curves: Mapping[str, np.ndarray], looks: int) -> dict[str, Any]:
    """The judgement, deflated for every look at the span since: the first of many runs was not the only one."""
    judgement = dict(document["judgement"])
    if looks > judgement["verdict"]["trials"]:
        judgement["verdict"] = judgement["verdict"] | {"trials": looks}
        judgement["own_deflated_sharpe"] = own_deflated(curves[f"growth/{POLICY}"], looks)
    return judgement


def _leaks(document: Mapping[str, Any], reason: str | None) -> list[Line]:
    leaks = document["leaks"]
    if leaks and reason and reason.strip():
        why = f"overridden ({reason}): {leaks[0]}"
        return [Line(rule="leak test", number=len(leaks), threshold=0.0, comparison="<=", passed=True, why=why)]
    why = leaks[0] if leaks else "no supplied column knows the next bar"
    return [_line("leak test", len(leaks), "<=", 0.0, why)]


def _portfolio(document: Mapping[str, Any], curves: Mapping[str, np.ndarray], rules: GateRules) -> list[Line]:
    """Concentration and shares; the Sharpe ratio is among the numbers of every kind."""
    from himari_rl.evaluation.portfolio import SHARPE, PortfolioCurve, gates

    mine, equal = (
        PortfolioCurve(curves[f"growth/{name}"], curves[exposure])
        for name, exposure in ((POLICY, "exposure"), (EQUAL, f"exposure/{EQUAL}"))
    )
    year = document["judgement"]["verdict"]["bars_per_year"]
    found = gates(
        mine,
        equal,
        document["symbols"],
        year,
        np.random.default_rng(0),
        min_sharpe=rules.min_portfolio_sharpe,
        max_herfindahl=rules.max_herfindahl,
        min_asset_share=rules.min_asset_share,
    )
    return [
        Line(
            rule=gate.name,
            number=gate.value.estimate,
            threshold=gate.threshold,
            comparison=gate.comparison,
            passed=gate.passed,
            why=_minus_equal(asdict(gate.difference)),
            lower=gate.value.lower,
            upper=gate.value.upper,
        )
        for gate in found
        if gate.name != SHARPE
    ]


def _minus_equal(difference: Mapping[str, float]) -> str:
    estimate, lower, upper = (difference[name] for name in ("estimate", "lower", "upper"))
    return f"minus {EQUAL} {estimate:+.2f} ({lower:+.2f} to {upper:+.2f})"


def _against(
    document: Mapping[str, Any], mine: Mapping[str, np.ndarray], rival: Manifest, other: Path, rules: GateRules
) -> list[Line]:
    """Sharpe ratio minus the champion's, on the bars that both walk-forwards judged; an LSTM's must also be sure."""
    from himari_rl.evaluation import metrics, statistics

    require_evidence(other, rival)
    theirs_document, theirs = read_run(other), read_curves(other)
    if theirs_document["bundle"]["model_version"] != rival.version:
        raise BundleError(
            f"the walk-forward in {other} did not write the champion {rival.version}",
            "the champion's own walk-forward beside it",
            "give RUN/bundle of another walk-forward",
        )
    common, i, j = np.intersect1d(mine["fill_time"], theirs["fill_time"], return_indices=True)
    if len(common) < 1000 or theirs_document["symbols"] != document["symbols"]:
        raise ConfigError(
            f"the bundle and {other} share {len(common)} decisions of {document['symbols']}",
            "at least 1000 of the same symbols",
            "walk both forward on the same data",
        )
    fixed = [curves[f"growth/{ONE}"][rows] for curves, rows in ((mine, i), (theirs, j))]
    same = float(np.isclose(fixed[0], fixed[1], rtol=0.0, atol=1e-9).mean())
    if same < SAME_BARS:  # the same bars, signals and costs give multiplier 1.0 the same, but where a walk begins
        raise ConfigError(
            f"multiplier 1.0 earns the same on {100.0 * same:.0f} % of the decisions shared with {other}",
            f"at least {100.0 * SAME_BARS:.0f} %: the same bars, signals and costs",
            "walk both forward on the same data",
        )
    pair = np.column_stack([mine[f"growth/{POLICY}"][i], theirs[f"growth/{POLICY}"][j]])

    def difference(rows: FloatArray) -> FloatArray:
        ratio = metrics.sharpe_ratio(rows.mean(axis=0), rows.std(axis=0, ddof=1))
        return np.array([ratio[0] - ratio[1]])

    draws = statistics.resample(pair, difference, np.random.default_rng(0), replications=1000)
    year = document["judgement"]["verdict"]["bars_per_year"]
    found = statistics.interval(float(difference(pair)[0]), draws[:, 0]).scaled(float(np.sqrt(year)))
    needs_gain = document["kind"] == "lstm" and rival.kind == "base"
    rule, least = (LSTM_GAIN, rules.min_lstm_gain) if needs_gain else ("over the champion", 0.0)
    why = f"Sharpe ratio minus the champion's, {len(common)} shared decisions"
    lines = [_line(rule, found.estimate, ">", least, why, asdict(found))]
    if needs_gain:
        sure = "lower end of the paired 95 % interval of that gain: it must exclude 0"
        lines.append(_line("LSTM surely over base", found.lower, ">", 0.0, sure, asdict(found)))
    return lines
