"""Tasks over processes: what dies is done again, what fails stops the rest, Ctrl-C is the parent's."""

from __future__ import annotations

import multiprocessing
import signal
import time
from pathlib import Path

import pytest

from helpers import PATIENCE_S
from helpers.faulty import until
from helpers.verdict import die_once, ignores_interrupts
from himari_rl.errors import StorageError
from himari_rl.training import fan_out as fan_outs
from himari_rl.training.fan_out import fan_out, local_pool


def test_a_worker_that_is_killed_is_replaced_and_its_task_done_again(tmp_path: Path) -> None:
    results: list[str] = []
    fan_out(die_once, [str(tmp_path / "flag")], lambda task, result: results.append(result) or [], local_pool(1))
    assert results == [str(tmp_path / "flag")]


def test_a_worker_leaves_ctrl_c_to_its_parent() -> None:
    """One that was still importing answered it with a traceback of its own."""
    handlers: list[bool] = []
    fan_out(ignores_interrupts, [0], lambda task, result: handlers.append(result) or [], local_pool(1))
    assert handlers == [True]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_a_pool_a_chain_runs_here_in_order() -> None:
    seen: list[tuple[int, int]] = []

    def done(task: int, result: int) -> list[int]:
        seen.append((task, result))
        return [task + 10] if task < 10 else []

    fan_out(lambda task: task * task, [1, 2], done, None)
    assert seen == [(1, 1), (2, 4), (11, 121), (12, 144)]


def test_nothing_to_do_opens_no_pool() -> None:
    def pool() -> None:
        raise AssertionError("opened")

    fan_out(die_once, [], lambda task, result: [], pool)
    with pytest.raises(AssertionError, match="opened"):
        fan_out(die_once, ["a task"], lambda task, result: [], pool)


def test_a_task_that_fails_ends_the_fan_out_with_its_own_error() -> None:
    finished: list[str] = []
    with pytest.raises(FileNotFoundError, match="no/such/folder"):
        fan_out(die_once, ["no/such/folder/flag"], lambda task, result: finished.append(task) or [], local_pool(1))
    assert finished == []


def test_workers_that_keep_dying_are_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fan_outs, "ATTEMPTS", 1)
    with pytest.raises(StorageError, match="1 tasks are left and workers died 1 times"):
        fan_out(die_once, [str(tmp_path / "flag")], lambda task, result: [], local_pool(1))


def test_ctrl_c_ends_the_workers_where_they_are() -> None:
    """An executor's own shutdown waits for what is in hand: here for an hour."""
    others = set(multiprocessing.active_children())

    def stop(task: float, result: None) -> list[float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fan_out(time.sleep, [3600.0, 0.0], stop, local_pool(2))
    until(lambda: set(multiprocessing.active_children()) <= others, PATIENCE_S)
