"""A bundle's verdict on held-out bars, with its controls: the recipe in its manifest is trained again on both twins.

The twins' weights and the planted edge are kept beside the bundle, under a name made of recipe and bars, so that only
the first verdict on the same bars costs them. Where the controls cannot be run, there are measurements and no verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from himari_rl.config import config_hash, from_dict
from himari_rl.data.panel import Panel
from himari_rl.data.splits import PURGE_BARS, Fold
from himari_rl.errors import ConfigError
from himari_rl.evaluation import verdict as judging
from himari_rl.evaluation.backtest import MIN_DECISIONS, POLICY, Backtest, Variant, backtest, stage
from himari_rl.evaluation.one_liners import on_training_rows, one_liners, with_best
from himari_rl.evaluation.portfolio_baselines import allocations_of
from himari_rl.evaluation.statements import LOOK_AHEAD, no_verdict
from himari_rl.evaluation.verdict import Verdict
from himari_rl.schema import Bars

if TYPE_CHECKING:
    from himari_rl.evaluation.control import Control
    from himari_rl.experiments.recipe import Recipe
    from himari_rl.policy.manifest import Manifest
    from himari_rl.policy.runtime import Policy

NO_VERDICT = "no_verdict"
CONTROL_BARS = 500_000  # most that a twin is trained with
FOLDER = "controls"


@dataclass(frozen=True)
class Held:
    """What was found on the held-out bars."""

    verdict: Verdict
    result: Backtest
    controls: tuple[Control, ...]  # empty where there is no verdict
    detectable: float | None  # utility a year that this much data shows with 95 % power


def judge_bundle(
    policy: Policy,
    bars: Bars | Panel,
    first: int,
    place: Path,
    count: Callable[[], int],
    rng: np.random.Generator,
    *,
    variants: Sequence[Variant],
    risk_aversion: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
    beliefs_from: Sequence[Bars] = (),
) -> Held:
    """Judges a loaded bundle on the rows from `first` on.

    Args:
        bars: those rows and the ones before them, on which the twins of the controls are trained.
        place: the bundle's folder.
        count: the number of trials, asked for once the bars are known to be enough.
        beliefs_from: the other symbols that its beliefs were fitted on too, where there were any.
    """
    ledger = policy.manifest.ledger
    if len(policy.manifest.symbols) > 1 and bars.symbols != policy.manifest.symbols:
        raise ConfigError(
            f"bars of {', '.join(bars.symbols)} for {policy.manifest.version}",
            f"{', '.join(policy.manifest.symbols)}, in that order",
            "load the panel with the bundle's symbols",
        )
    on = stage(bars, ledger, first)
    why, recipe = _recipe(policy.manifest, first, beliefs_from)
    if recipe is None:
        others = allocations_of(bars, on, first)
        played = {POLICY: policy, **one_liners(bars, on, first)}
        result = backtest(played, on, ledger, variants=variants, rng=rng, allocations=others)
        rivals = on_training_rows(bars, ledger, [(slice(0, max(0, first - PURGE_BARS)), 0)], risk_aversion)
        asked: dict[str, Any] = {"risk_aversion": risk_aversion, "one_liner": rivals.in_words()}
        doubt = f"its controls cannot be run ({why})"
        verdict = judging.judge(with_best(result, rivals), rng, trials=count(), **asked, doubt=doubt)
        if verdict.answer != LOOK_AHEAD:
            verdict = replace(verdict, answer=NO_VERDICT, sentence=no_verdict(doubt))
        return Held(verdict, result, (), None)

    from himari_rl.experiments.controls import judge_parts
    from himari_rl.experiments.fold_policies import FoldPolicies
    from himari_rl.experiments.power import keep
    from himari_rl.experiments.train_all import train_all
    from himari_rl.experiments.walk_forward import (
        DRIFTLESS,
        PLANTED,
        REAL,
        ExternalSettings,
        Settings,
        WalkForwardPlan,
        with_twins,
    )

    code, asked = policy.manifest.external, {"seeds": (0,), "control_seeds": (0,)} | vars(recipe)
    settings = (
        Settings(kind=policy.manifest.kind, **asked)
        if code is None
        else ExternalSettings(factory=code.reference, **asked)
    )
    fold = Fold(train=slice(0, first - PURGE_BARS), test=slice(first, len(bars)))
    data = "-".join(part.fingerprint[:12] for part in (bars, *beliefs_from))
    what = config_hash(recipe) if code is None else settings.hash
    kept = place.parent / FOLDER / f"{what}-{data}-{first}"
    whole = WalkForwardPlan(settings=settings, bars={REAL: bars}, folds=(fold,), others={REAL: tuple(beliefs_from)})
    work = with_twins(whole, ledger, kept=kept)
    trained = train_all(work, kept, None, progress, parts=(DRIFTLESS, PLANTED))
    if work.planted is not None:
        keep(work.planted, kept)
    judgement, result = judge_parts(
        work,
        {POLICY: FoldPolicies([policy], [0])},
        trained,
        ledger,
        count(),
        rng,
        [0.0],
        variants=variants,
        risk_aversion=risk_aversion,
    )
    return Held(judgement.verdict, result, judgement.controls, judgement.detectable)


def _recipe(manifest: Manifest, first: int, beliefs_from: Sequence[Bars]) -> tuple[str, Recipe | None]:
    """How the bundle was trained, or why that cannot be done again on the rows before `first`."""
    if manifest.external is not None:
        return _recipe_of_code(manifest, first)
    if find_spec("torch") is None:
        return "training needs pip install 'himari-rl[train]'", None
    from himari_rl.agents.config import config_type
    from himari_rl.envs.config import TradingEnvConfig
    from himari_rl.experiments.recipe import Recipe

    said = manifest.config
    agent, environment, run = (said.get(name) for name in ("agent", "environment", "run"))
    if not (isinstance(agent, dict) and isinstance(environment, dict) and isinstance(run, dict)):
        return "the bundle does not say how it was trained", None
    listed = run.get("beliefs_from")
    others = sorted(str(symbol) for symbol in listed) if isinstance(listed, list) else []
    given = sorted(bars.symbol for bars in beliefs_from)
    if others != given:
        asked, gave = (", ".join(names) or "no other symbol" for names in (others, given))
        return f"its beliefs were fitted on {asked} too, and --beliefs-from gives {gave}", None
    if ":" in str(environment.get("reward")):
        return f"its reward {environment.get('reward')} is code of somebody's own", None
    try:
        world = from_dict(TradingEnvConfig, environment)
        stepped = run.get("bars", 0)
        steps = int(stepped) if isinstance(stepped, int | float) else 0
        bars = min(steps // len(manifest.seeds), CONTROL_BARS)
        recipe = Recipe(
            agent=from_dict(config_type(manifest.kind), agent),
            environment=world,
            num_episodes=max(1, -(-bars // world.episode_bars)),
        )
    except ConfigError as error:
        return f"its recipe is of another release: {error}", None
    rows, least = first - PURGE_BARS, recipe.environment.episode_bars + 3
    if rows < least:
        return f"{max(rows, 0)} rows before the held-out ones to train twins on, {least} are needed", None
    return "", recipe


def _recipe_of_code(manifest: Manifest, first: int) -> tuple[str, Recipe | None]:
    """The ledger of a policy that is code, which its factory is fitted in again."""
    from himari_rl.envs.config import TradingEnvConfig
    from himari_rl.experiments.recipe import Recipe

    environment = manifest.config.get("environment")
    if not isinstance(environment, dict) or ":" in str(environment.get("reward")):
        return "the bundle does not say in which ledger it was fitted, or its reward is code too", None
    if manifest.external is not None and not manifest.external.ships:
        return "past decisions cannot be made again on other bars", None
    if first - PURGE_BARS < MIN_DECISIONS:
        return f"{max(first - PURGE_BARS, 0)} rows before the held-out ones, {MIN_DECISIONS} are needed", None
    return "", Recipe(environment=from_dict(TradingEnvConfig, environment))
