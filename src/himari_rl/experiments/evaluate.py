"""A bundle judged on the last part of a history, as anybody asks for it: verdict, controls, evaluation.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from himari_rl.config import as_dict, config_hash
from himari_rl.data.facts import Fact, recorded, whose_signals
from himari_rl.data.panel import Panel
from himari_rl.data.splits import train_test
from himari_rl.data.table import stamp
from himari_rl.errors import ConfigError, DataError
from himari_rl.evaluation.backtest import BASE, LAGGED, Backtest, Variant, stage
from himari_rl.evaluation.control import Control
from himari_rl.evaluation.portfolio import PortfolioMeasures, measure
from himari_rl.evaluation.record import SUMMARY as SUMMARY
from himari_rl.evaluation.verdict import Verdict
from himari_rl.experiments.arguments import accepted_facts, require_bars, settings_from
from himari_rl.experiments.config import EvaluateConfig
from himari_rl.experiments.held_out import FOLDER as CONTROLS
from himari_rl.experiments.held_out import judge_bundle
from himari_rl.experiments.run_folder import require_ledger
from himari_rl.features.own import with_features
from himari_rl.policy.manifest import Manifest, TrainingData
from himari_rl.policy.runtime import Policy, load_policy
from himari_rl.schema import Bars
from himari_rl.storage import is_remote, local_path, require_writable, write_atomic
from himari_rl.storage.mirror import inside, shown
from himari_rl.trials.fingerprint import paths_of
from himari_rl.trials.ledger import Trials, beginning_line, look_of, plain_symbol, span_of
from himari_rl.trials.register import Standing, standing


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was found on bars that training never saw; `print` it for a page."""

    verdict: Verdict
    controls: tuple[Control, ...]
    """Empty where they could not be run, and then there is no verdict, only measurements."""
    backtest: Backtest
    detectable: float | None
    """Utility a year that this much data shows with 95 % power."""
    portfolio: PortfolioMeasures | None
    """For several assets."""
    notes: tuple[str, ...]
    """What a reader must know before the numbers."""
    facts: tuple[Fact, ...]
    """What the data says of itself: coverage, whose signals and how many, funding ..."""
    ledger: str
    """Costs and limits it was judged with."""
    document: dict[str, Any]
    """As in evaluation.json."""

    def __str__(self) -> str:
        from himari_rl.evaluation.terminal import wrapped

        said = [fact.sentence for fact in self.facts]
        head = [wrapped(line) for line in (*self.notes, *said, f"Ledger: {self.ledger}.")]
        return "\n".join([*head, "", self.verdict.summary([control.to_dict() for control in self.controls])])

    def __repr__(self) -> str:
        return f"<Evaluation of {self.document['model_version']}: {self.verdict.answer}>"


def evaluate(
    policy: Policy | str | Path,
    bars: Bars | Panel,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    accept: Sequence[str] = (),
    beliefs_from: Sequence[Bars] = (),
    **settings: Any,
) -> Evaluation:
    """Judges a policy against multiplier 1.0 on the last part of `bars`; what `himari evaluate` does, same defaults.

    Counts as a look in the trial ledger, trains the twins of the controls (once: they are kept beside the bundle) and
    writes evaluation.json into the bundle.

    Args:
        policy: a loaded policy, or its bundle's folder.
        bars: also the rows before the judged ones, on which the twins are trained.
        accept: findings of `himari data audit` to go on with, by name; recorded in the document.
        beliefs_from: the other symbols that the policy's beliefs were fitted on too; the twins' are then as well.
        settings: fields of EvaluateConfig: test_fraction, costs, trials, risk_aversion, seed, allow_seen.

    Raises:
        DataError: too few bars, a finding not accepted, or bars of the training span.
        ConfigError: other symbols, or a wrong setting.

    >>> from himari_rl.data.synthetic import synthetic_bars
    >>> from himari_rl.experiments.train import train
    >>> from himari_rl.agents.config import PPOConfig
    >>> small = PPOConfig(num_envs=20, hidden_dim=8, minibatch=500)
    >>> bars = synthetic_bars(2000, 0)
    >>> found = evaluate(train(bars, out="evaluate", agent=small, num_episodes=2, seeds=1), bars)
    >>> [control.name for control in found.controls]
    ['driftless', 'planted', 'shuffled', 'lag', 'costs']
    """
    if isinstance(policy, Bars | Panel):
        raise ConfigError("bars where the policy belongs", "evaluate(policy, bars)", "swap the two arguments")
    require_bars(bars, "evaluate(policy, bars)")
    asked = settings_from(EvaluateConfig, settings)
    folder = policy.folder if isinstance(policy, Policy) else policy
    if folder is not None and is_remote(folder):
        with inside(folder, CONTROLS) as here:
            return evaluate(here, bars, progress=progress, accept=accept, beliefs_from=beliefs_from, **settings)
    loaded = policy if isinstance(policy, Policy) else load_policy(policy)
    manifest = loaded.manifest
    bars = with_features(bars, manifest.own_features)  # and no others
    found = accepted_facts(bars, accept)
    require_ledger()
    if loaded.folder is not None:
        require_writable(local_path(loaded.folder))
    _, test = train_test(bars, asked.test_fraction, purge_bars=0)
    seen = _seen(test, manifest.training_data)
    if seen and not asked.allow_seen:
        raise _overlap(test, manifest.training_data)
    rng = np.random.default_rng(asked.seed)
    first = len(bars) - len(test)
    looked: list[_Look] = []  # once the bars are known to be enough

    def count() -> int:
        looked.append(_counted(test, loaded, asked))
        return looked[0].used

    with TemporaryDirectory() as nowhere:
        place = Path(nowhere) / "bundle" if loaded.folder is None else local_path(loaded.folder)
        held = judge_bundle(
            loaded,
            bars,
            first,
            place,
            count,
            rng,
            variants=variants(asked.costs),
            risk_aversion=asked.risk_aversion,
            progress=progress,
            beliefs_from=beliefs_from,
        )
    portfolio = None
    if isinstance(bars, Panel):
        portfolio = measure(held.result, stage(bars, manifest.ledger, first), manifest.ledger, rng)
    config = {"evaluate": as_dict(asked)}
    notes = (*_notes(bars, seen), *_elsewhere(test, manifest), *looked[0].lines)
    document = {
        "model_version": manifest.version,
        "data": _described(test),
        "synthetic": bars.synthetic,
        "signals": whose_signals(bars),
        "seen_in_training": seen,
        "notes": list(notes),
        "seed": asked.seed,
        "config": config,
        "config_hash": config_hash(config),
        "trials": {"used": looked[0].used, "ledger": looked[0].number, "given": asked.trials},
        "registration": looked[0].standing.to_dict(),
        "verdict": held.verdict.to_dict(),
        "controls": [control.to_dict() for control in held.controls],
        "detectable": held.detectable,
        **recorded(found, accept),
    }
    if portfolio is not None:
        document["portfolio"] = portfolio.to_dict()
    if loaded.folder is not None:
        write_atomic(local_path(loaded.folder) / SUMMARY, json.dumps(document, indent=2, allow_nan=False).encode())
    return Evaluation(
        verdict=held.verdict,
        controls=held.controls,
        backtest=held.result,
        detectable=held.detectable,
        portfolio=portfolio,
        notes=notes,
        facts=found,
        ledger=manifest.ledger.config.describe(),
        document=document,
    )


def variants(multiples: Sequence[float]) -> tuple[Variant, ...]:
    """As decided, at each cost multiple, and one bar late."""
    more = tuple(Variant(f"x{multiple:g}", multiple) for multiple in dict.fromkeys(multiples) if multiple != 1.0)
    return (BASE, *more, LAGGED)


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What the trial ledger said of this look."""

    begins: str
    number: int
    used: int
    standing: Standing

    @property
    def lines(self) -> tuple[str, ...]:
        """One line each: a ledger that begins here, the look, a number that was given instead."""
        looks = f"Look {self.number} at this span ({self.standing.line})."
        given = f"Number of trials given by hand: {self.used}; the ledger says {self.number}."
        said = (self.begins[:1].upper() + self.begins[1:] + "." if self.begins else "", looks)
        return (*(line for line in said if line), *([given] if self.used != self.number else []))


def _counted(test: Bars | Panel, policy: Policy, asked: EvaluateConfig) -> _Look:
    """Writes this look at the test span into the trial ledger."""
    manifest, paths, begins = policy.manifest, paths_of(test), beginning_line()
    folder = "" if policy.folder is None else shown(local_path(policy.folder).resolve())
    where = "" if is_remote(folder) else f"{Path.cwd()} "  # one bucket is one place, whoever looks
    look = look_of(manifest.version, test, f"{where}{folder} {test.source}")
    settings: dict[str, Any] = {"kind": manifest.kind, "evaluate": as_dict(asked)}
    settings |= {name: manifest.config[name] for name in ("agent", "environment") if name in manifest.config}
    with Trials() as ledger:
        number = ledger.look("evaluate", *span_of(test), look, paths=paths)
        stands = standing(ledger, *span_of(test), settings, paths=paths, partial=True)
    return _Look(begins=begins, number=number, used=number if asked.trials is None else asked.trials, standing=stands)


def _milliseconds(moment: str) -> int:
    parsed = datetime.fromisoformat(moment)
    return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp() * 1000)


def _seen(test: Bars | Panel, trained: TrainingData) -> bool:
    """Whether training may have seen these bars. A synthetic market's dates say nothing about a recorded one."""
    if test.synthetic != trained.synthetic:
        return False
    first, last = int(test.timestamp[0]), int(test.timestamp[-1])
    return first <= _milliseconds(trained.end) and last >= _milliseconds(trained.start)


def _overlap(test: Bars | Panel, trained: TrainingData) -> DataError:
    return DataError(
        f"the bars to judge, {stamp(int(test.timestamp[0]))} to {stamp(int(test.timestamp[-1]))}, overlap the training "
        f"span, {trained.start} to {trained.end}",
        "bars that training never saw",
        "give later bars or a smaller --test-fraction; --allow-seen judges them anyway",
    )


def _described(test: Bars | Panel) -> dict[str, Any]:
    """What was judged, for the document."""
    return {
        "source": test.source,
        "sha256": test.fingerprint,
        "symbol": ", ".join(test.symbols),
        "rows": len(test),
    } | ({"features": list(test.features)} if test.features else {})


def _elsewhere(test: Bars | Panel, manifest: Manifest) -> tuple[str, ...]:
    """What sets the judged bars apart from those the policy was trained on: another market, or an earlier time."""
    trained, notes = manifest.training_data, []
    if [plain_symbol(name) for name in test.symbols] != [plain_symbol(name) for name in manifest.symbols]:
        notes.append(
            f"This policy was trained on {', '.join(manifest.symbols)} and is judged on {', '.join(test.symbols)}: "
            "the verdict is about a market it has not learned."
        )
    if test.synthetic != trained.synthetic:
        made, other = ("a synthetic market", "recorded bars")[:: 1 if trained.synthetic else -1]
        notes.append(f"This policy was trained on {made} and is judged on {other}.")
    elif int(test.timestamp[-1]) < _milliseconds(trained.start):
        notes.append(
            f"These bars, {stamp(int(test.timestamp[0]))} to {stamp(int(test.timestamp[-1]))}, lie before the training "
            f"span, {trained.start} to {trained.end}: nobody could have traded this policy then, and it may have "
            "learned what these years led to."
        )
    return tuple(notes)


def _notes(bars: Bars | Panel, seen: bool) -> tuple[str, ...]:
    notes = []
    if bars.synthetic:
        notes.append("These bars are synthetic: the verdict says nothing about a real market.")
    if seen:
        notes.append("These bars lie in the training span: this is no test.")
    return tuple(notes)
