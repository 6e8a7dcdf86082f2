"""Certification: is the learner able to learn? Every market with every seed, fanned out, each against its threshold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from himari_rl.agents.config import PPOConfig
from himari_rl.certification.attempts import (
    Attempt,
    bundle_folder,
    market_for,
    require_learnable_from,
    seeds_together,
)
from himari_rl.certification.attempts import attempts as train_attempts
from himari_rl.certification.certificates import Certificate, judged
from himari_rl.certification.grading import Grade
from himari_rl.certification.thresholds import Budget, Rivals, Suite
from himari_rl.policy.runtime import Policy, load_policy
from himari_rl.training.device import one_thread
from himari_rl.training.fan_out import fan_out, local_pool


@dataclass(frozen=True, kw_only=True)
class AttemptTask:
    """Seeds on one market, for a worker."""

    market: str
    seeds: Sequence[int]
    config: PPOConfig
    budget: Budget
    device: str
    bundles: Path | None


@dataclass(frozen=True, kw_only=True)
class RivalTask:
    """What is trained on one market to be compared with, for a worker."""

    market: str
    seed: int
    budget: Budget
    rivals: Rivals


Task = AttemptTask | RivalTask


def certify(
    names: Sequence[str],
    seeds: Sequence[int],
    suite: Suite,
    *,
    bundles: Path | None = None,
    jobs: int | None = None,
    device: str = "cpu",
    done: Callable[[Attempt], None] = lambda attempt: None,
) -> list[Certificate]:
    """Every market with every seed, a process a core or a GPU; what was graded stays in `bundles`, if that is given.

    Raises:
        RefusedError: a market that cannot be learned from that many bars.
        LookAheadError: a share above 1.01.
        StorageError: workers keep dying.
    """
    names = list(dict.fromkeys(names))
    for name in names:
        suite.require_kind_of(market_for(name)[0])
        require_learnable_from(name, suite.budget_for(name))
    attempts: list[Attempt] = []
    rivals: dict[tuple[str, int], Mapping[str, Grade]] = {}

    def keep(task: Task, found: list[Attempt] | dict[str, Grade]) -> list[Task]:
        if isinstance(task, AttemptTask) and isinstance(found, list):
            attempts.extend(found)
            for each in found:
                done(each)
        elif isinstance(task, RivalTask) and isinstance(found, dict):
            rivals[task.market, task.seed] = found
        return []

    pool = local_pool(jobs if device == "cpu" else jobs or 1)  # one process on a GPU, unless somebody says otherwise
    fan_out(work_on, _tasks(names, seeds, suite, device, bundles), keep, pool)
    attempts.sort(key=lambda a: a.seed)
    return [
        judged(
            name,
            tuple(a for a in attempts if a.market == name),
            suite.thresholds.get(name),
            _median_of([rivals[name, seed] for seed in seeds if (name, seed) in rivals]),
        )
        for name in names
    ]


def _tasks(names: Sequence[str], seeds: Sequence[int], suite: Suite, device: str, bundles: Path | None) -> list[Task]:
    """Every attempt, and behind them the rivals."""
    budgets = {name: suite.budget_for(name) for name in names}
    attempts: list[Task] = [
        AttemptTask(market=name, seeds=some, config=suite.config, budget=budgets[name], device=device, bundles=bundles)
        for name in names
        for some in seeds_together(name, seeds, budgets[name])
    ]
    if suite.rivals is None:
        return attempts
    return attempts + [
        RivalTask(market=name, seed=seed, budget=budgets[name], rivals=suite.rivals)
        for name in names
        for seed in seeds[: suite.rival_seeds]
    ]


def work_on(task: Task) -> list[Attempt] | dict[str, Grade]:
    """One task, on one thread: a process a core."""
    with one_thread():
        if isinstance(task, RivalTask):
            return task.rivals(task.market, task.seed, task.budget)
        found = train_attempts(task.market, task.seeds, task.config, task.budget, task.device, task.bundles)
    return [each for each, _ in found]


def _median_of(found: Sequence[Mapping[str, Grade]]) -> dict[str, Grade]:
    """Of each rival, the seed whose share is the median."""
    names = found[0] if found else {}
    return {n: sorted((each[n] for each in found), key=lambda g: g.share)[len(found) // 2] for n in names}


def median_policy(certificate: Certificate, bundles: Path) -> Policy:
    """The graded policy of the seed whose share is the median."""
    ranked = sorted(certificate.attempts, key=lambda a: a.grade.share)
    return load_policy(bundle_folder(bundles, certificate.market, ranked[len(ranked) // 2].seed))
