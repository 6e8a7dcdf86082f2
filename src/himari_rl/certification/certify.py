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
from himari_rl.certification.histories import history_for, is_history
from himari_rl.certification.history_certificates import (
    HistoryAttempt,
    HistoryCertificate,
    history_attempts,
    judged_history,
)
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


@dataclass(frozen=True, kw_only=True)
class HistoryTask:
    """Seeds on histories of one market, for a worker."""

    market: str
    seeds: Sequence[int]
    config: PPOConfig
    num_episodes: int | None
    device: str
    bundles: Path | None


Task = AttemptTask | RivalTask | HistoryTask
Found = list[Attempt] | list[HistoryAttempt] | dict[str, Grade]


def certify(
    names: Sequence[str],
    seeds: Sequence[int],
    suite: Suite,
    *,
    bundles: Path | None = None,
    jobs: int | None = None,
    device: str = "cpu",
    history_seeds: int | None = None,
    done: Callable[[], None] = lambda: None,
) -> list[Certificate | HistoryCertificate]:
    """Every market with every seed, a process a core or a GPU; what was graded stays in `bundles`, if that is given.

    Args:
        history_seeds: only the first so many seeds of a market that is learned from one history; None is all.
        done: called after each seed of a market.

    Raises:
        RefusedError: a market that cannot be learned from that many bars.
        LookAheadError: a share above 1.01.
        StorageError: workers keep dying.
    """
    names = list(dict.fromkeys(names))
    for name in names:
        if is_history(name):
            suite.require_kind_of(history_for(name)[0])
            continue
        suite.require_kind_of(market_for(name)[0])
        require_learnable_from(name, suite.budget_for(name))
    results: list[tuple[Task, Found]] = []

    def keep(task: Task, found: Found) -> list[Task]:
        results.append((task, found))
        for _ in () if isinstance(task, RivalTask) else task.seeds:
            done()
        return []

    pool = local_pool(jobs if device == "cpu" else jobs or 1)  # one process on a GPU, unless somebody says otherwise
    tasks = _tasks(names, seeds, suite, device, bundles, history_seeds)
    fan_out(work_on, tasks, keep, pool)
    return [_certificate(name, suite, [(t, found) for t, found in results if t.market == name]) for name in names]


def _certificate(name: str, suite: Suite, results: Sequence[tuple[Task, Found]]) -> Certificate | HistoryCertificate:
    """What the tasks of one market found, against its threshold."""
    attempts: list[Attempt] = []
    on_histories: list[HistoryAttempt] = []
    rivals: list[Mapping[str, Grade]] = []
    for _, found in results:
        if isinstance(found, dict):
            rivals.append(found)
            continue
        for each in found:
            if isinstance(each, Attempt):
                attempts.append(each)
            else:
                on_histories.append(each)
    if on_histories:
        ordered = tuple(sorted(on_histories, key=lambda a: a.seed))
        return judged_history(name, ordered, suite.histories.get(name))
    ranked = tuple(sorted(attempts, key=lambda a: a.seed))
    return judged(name, ranked, suite.thresholds.get(name), _median_of(rivals))


def _tasks(
    names: Sequence[str],
    seeds: Sequence[int],
    suite: Suite,
    device: str,
    bundles: Path | None,
    history_seeds: int | None,
) -> list[Task]:
    """Every attempt, and behind them the rivals."""
    tasks: list[Task] = []
    rivals: list[Task] = []
    for name in names:
        if is_history(name):
            tasks.append(
                HistoryTask(
                    market=name,
                    seeds=seeds[:history_seeds],
                    config=suite.config,
                    num_episodes=suite.num_episodes,
                    device=device,
                    bundles=bundles,
                )
            )
            continue
        budget = suite.budget_for(name)
        tasks += [
            AttemptTask(market=name, seeds=some, config=suite.config, budget=budget, device=device, bundles=bundles)
            for some in seeds_together(name, seeds, budget)
        ]
        if suite.rivals is not None:
            rivals += [
                RivalTask(market=name, seed=seed, budget=budget, rivals=suite.rivals)
                for seed in seeds[: suite.rival_seeds]
            ]
    return tasks + rivals


def work_on(task: Task) -> Found:
    """One task, on one thread: a process a core."""
    with one_thread():
        if isinstance(task, RivalTask):
            return task.rivals(task.market, task.seed, task.budget)
        if isinstance(task, HistoryTask):
            return history_attempts(
                task.market,
                task.seeds,
                task.config,
                num_episodes=task.num_episodes,
                device=task.device,
                bundles=task.bundles,
            )
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
