"""What a person sees while agents are trained: a bar a seed, or lines in a pipe, and TensorBoard event files."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from himari_rl.training.progress import Heartbeat, minutes
from himari_rl.training.trainer import Trainer

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Watch:
    """Call it after each rollout with the trainer and the seed; use it as a context manager.

    Args:
        console: where the progress goes (stderr, so that --json keeps stdout clean).
        log_dir: for the event files; None writes none.
    """

    def __init__(self, console: Console, log_dir: Path | None) -> None:
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[done]}"),
            TextColumn("[dim]{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._heartbeat = Heartbeat(console, self._line)
        self._rollouts: dict[int, tuple[int, int]] = {}  # done and planned, of each seed
        self._log_dir = log_dir
        self._tasks: dict[int, tuple[TaskID, float, int]] = {}
        self._writers: dict[int, SummaryWriter] = {}

    def __enter__(self) -> Watch:
        self._progress.start()
        self._heartbeat.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._heartbeat.__exit__(kind, error, trace)
        self._progress.stop()
        for writer in self._writers.values():
            writer.close()

    def __call__(self, trainer: Trainer, seed: int) -> None:
        """One rollout is done."""
        state = trainer.state
        if seed not in self._tasks:
            task = self._progress.add_task(f"seed {seed}", total=trainer.rollouts, done="", rate="", note="")
            self._tasks[seed] = (task, time.perf_counter(), state.bars)
        self._rollouts[seed] = (state.rollout, trainer.rollouts)
        task, started, first = self._tasks[seed]
        elapsed = time.perf_counter() - started
        rate = f"{(state.bars - first) / elapsed:,.0f} steps/s" if state.bars > first and elapsed > 0 else ""
        stage = "gradient" if state.rollout <= trainer.gradient_rollouts else "PPO"
        note = f"{stage}, multiplier {state.metrics['multiplier']:.2f} ± {state.metrics['action_spread']:.2f}"
        self._progress.update(
            task, total=trainer.rollouts, completed=state.rollout, done=f"{state.bars:,} bars", rate=rate, note=note
        )
        if self._log_dir is not None:
            self._log(self._log_dir, trainer, seed)

    def _line(self, elapsed: float) -> str:
        seeds = dict(self._rollouts)  # the training thread adds to it
        done, planned = (sum(column) for column in zip(*seeds.values(), strict=True)) if seeds else (0, 0)
        said = f"training: {done} of {planned or '?'} rollouts of {len(seeds)} seed{'s' * (len(seeds) != 1)}"
        said += f" after {minutes(elapsed)}"
        return f"{said}, at least {minutes(elapsed / done * (planned - done))} left" if 0 < done < planned else said

    def _log(self, folder: Path, trainer: Trainer, seed: int) -> None:
        if seed not in self._writers:
            from torch.utils.tensorboard import SummaryWriter  # tensorboard is imported only where it writes

            self._writers[seed] = SummaryWriter(str(folder / f"seed-{seed}"))
        for name, value in trainer.state.metrics.items():
            self._writers[seed].add_scalar(f"train/{name}", value, trainer.state.bars)
