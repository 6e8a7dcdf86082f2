"""The live meter of a run: what it has cost, a line now and then, and a stop with a checkpoint at --max-cost.

    with metered(budget, "base", "gs://b/models/himari-rl", ledger=CostLedger(place), tell=print):
        train(...)

The stop is what Ctrl-C is: the rollout at hand ends, its checkpoint is written, and the same command goes on from it.
Attempts of one launch (a spot machine's, or a task begun again by the platform) share one maximal cost: what the ones
before have spent is read from the cost ledger. A job whose process dies stops at the platform's time-out instead.
"""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime

from himari_rl.cloud.config import label
from himari_rl.cloud.costs import ENDED, RUNNING, STOPPED_BY_COST, CostLedger, JobAttempt
from himari_rl.cloud.machines import BudgetConfig
from himari_rl.errors import RefusedError, StorageError
from himari_rl.storage import name_of

TELL_S, WRITE_S, TICK_S = 30.0, 60.0, 0.2
LAUNCH = "HIMARI_LAUNCH"
"""Environment variable: which launch this attempt belongs to."""


class CostLimitError(RefusedError):
    """A run reached its maximal cost: its checkpoint is written, and it can go on."""


@contextmanager
def metered(
    budget: BudgetConfig,
    model: str,
    run: str,
    *,
    ledger: CostLedger,
    tell: Callable[[str], None],
    task: str = "",
    environment: Mapping[str, str] = os.environ,
    resumes: bool = True,
    asked: str = "",
) -> Iterator[None]:
    """Counts while the body runs; a price of 0 counts nothing.

    Args:
        run: the run's folder.
        tell: takes a line every 30 seconds, and one at the end.
        task: which of a job's tasks; each has a maximal cost of its own.
        resumes: the body leaves a checkpoint; a certification has none, as it is graded whole.
        asked: the option without which the same command does not go on from it.

    Raises:
        CostLimitError: the body was stopped since the cost reached budget.max_cost, here or in an earlier attempt.
        StorageError: what earlier attempts have spent cannot be read.
    """
    if not budget.usd_per_hour:
        yield
        return
    meter = _Meter(budget, model, run, task, ledger, tell, environment, resumes, asked)
    if meter.usd() >= budget.max_cost:
        raise meter.refusal()
    with _interruptible():
        meter.start()
        try:
            yield
        except KeyboardInterrupt:
            if meter.reached:
                raise meter.refusal() from None
            raise
        finally:
            meter.end()
    if meter.reached:  # the body took the stop for one of the platform's
        raise meter.refusal()


class _Meter:
    def __init__(
        self,
        budget: BudgetConfig,
        model: str,
        run: str,
        task: str,
        ledger: CostLedger,
        tell: Callable[[str], None],
        environment: Mapping[str, str],
        resumes: bool,
        asked: str,
    ) -> None:
        self._asked = f"{asked} and " if asked else ""
        self.budget, self.ledger, self.tell, self.resumes = budget, ledger, tell, resumes
        self.reached = False
        launch = launch_in(environment) or secrets.token_hex(6)
        self.spent_before = sum(each.usd for each in ledger.attempts_of(launch, run, task))
        name = f"{label(f'{model}-{name_of(run)}')[:40]}-{secrets.token_hex(6)}"
        started = datetime.now(UTC).isoformat(timespec="seconds")
        self._blank = {
            "name": name,
            "task": task,
            "model": model,
            "run": run,
            "launch": launch,
            "started": started,
        }
        self._begun = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="himari-meter", daemon=True)

    def seconds(self) -> float:
        return time.monotonic() - self._begun

    def usd(self) -> float:
        """Of this launch on this run."""
        return self.spent_before + self.seconds() * self.budget.usd_per_hour / 3600

    def start(self) -> None:
        self._begun = time.monotonic()
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        self._thread.join()
        self._write(STOPPED_BY_COST if self.reached else ENDED)
        self.tell(self._line())

    def refusal(self) -> CostLimitError:
        limit = self.budget.max_cost
        return CostLimitError(
            f"stopped at ${self.usd():.4f} of --max-cost {limit:g}",
            "",
            f"the same command with {self._asked}a larger --max-cost "
            + ("goes on from the last checkpoint" if self.resumes else "begins anew: it has no checkpoint"),
        )

    def _work(self) -> None:
        told = written = 0.0
        self._write(RUNNING)
        while not self._over.wait(TICK_S):
            now = self.seconds()
            if self.usd() >= self.budget.max_cost and not self.reached:
                self.reached = True
                self.tell(f"{self._line()}: stopping" + " with a checkpoint" * self.resumes)
                main = threading.main_thread().ident
                if main is not None:
                    signal.pthread_kill(main, signal.SIGINT)
            if now - told >= TELL_S:
                told = now
                self.tell(self._line())
            if now - written >= WRITE_S:
                written = now
                self._write(RUNNING)

    def _line(self) -> str:
        limit = f" of at most ${self.budget.max_cost:g}" if self.budget.max_cost < float("inf") else ""
        return f"cost so far ${self.usd():.4f}{limit}, at ${self.budget.usd_per_hour:g} an hour"

    def _write(self, state: str) -> None:
        seconds, price = self.seconds(), self.budget.usd_per_hour
        attempt = JobAttempt(
            **self._blank, usd_per_hour=price, seconds=round(seconds, 3), usd=seconds * price / 3600, state=state
        )
        try:
            self.ledger.write(attempt)
        except StorageError as error:  # a run goes on without its line in the ledger
            self.tell(f"the cost ledger was not written: {error}")


def launch_in(environment: Mapping[str, str]) -> str:
    """What began this attempt: the launcher's own name of it, or the platform's; empty for a command typed by hand."""
    return next((environment[name] for name in _LAUNCHES if environment.get(name)), "")


_LAUNCHES = (LAUNCH, "CLOUD_ML_JOB_ID", "CLOUD_RUN_EXECUTION")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Inside it Ctrl-C is heard: `nohup` and a shell's background begin a program with it ignored."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
    ):
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
