"""Independent tasks over processes or a Dask cluster; what a dead worker left undone is done again.

Results do not depend on where or in which order tasks ran: each task carries its own seed. Both kinds of worker are
concurrent.futures executors; dask_cluster.py opens the second.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import wait as wait_for
from typing import TypeVar

from himari_rl.errors import StorageError
from himari_rl.training.slim_torch import import_later

T = TypeVar("T")
R = TypeVar("R")
ATTEMPTS = 3  # a pool is rebuilt this often before we give up

Pool = Callable[[], AbstractContextManager[Executor]]


def local_pool(jobs: int | None = None) -> Pool:
    """One process a core. Workers end with their parent, however it ends, and at Ctrl-C where they are: an executor's
    own shutdown would wait for the tasks in hand."""

    @contextmanager
    def opened() -> Iterator[Executor]:
        context = multiprocessing.get_context("spawn")
        others = set(multiprocessing.active_children())
        pool = ProcessPoolExecutor(jobs or os.cpu_count(), mp_context=context, initializer=_begin)
        try:
            yield pool
        except KeyboardInterrupt:
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    return opened


def fan_out(
    work: Callable[[T], R],
    first: Sequence[T],
    done: Callable[[T, R], Sequence[T]],
    pool: Pool | None,
) -> None:
    """Runs every task, and those that `done` answers with once one is finished (a chain).

    Args:
        work: a module-level function; it must be safe to run twice.
        first: tasks that wait for nothing.
        done: called here, in this process, as results arrive; returns the tasks that may start now.
        pool: None works in this process, one task after the other; without a task no pool is opened.

    Raises:
        StorageError: workers keep dying.
    """
    waiting = list(first)
    if pool is None:
        while waiting:
            task = waiting.pop(0)
            waiting += done(task, work(task))
    if pool is None or not waiting:
        return
    for attempt in range(1, ATTEMPTS + 1):
        running: dict[Future[R], T] = {}
        try:
            with pool() as executor:
                with _deaf_children():
                    running = {executor.submit(work, task): task for task in waiting}
                while running:
                    finished, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in finished:
                        result = future.result()  # a dead pool raises here; its task stays in `running`
                        task = running.pop(future)
                        for following in done(task, result):
                            running[executor.submit(work, following)] = following
            return
        except (BrokenProcessPool, CancelledError) as error:  # a cluster cancels what it lost
            waiting = list(running.values())
            if attempt == ATTEMPTS:
                raise StorageError(
                    f"{len(waiting)} tasks are left and workers died {ATTEMPTS} times",
                    "",
                    "give them more memory or fewer --jobs and run the same command again: what is done is kept",
                ) from error


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes begun in here never hear Ctrl-C: their parent does, and ends them. One that is still importing would
    answer it with a traceback. A parent that is no main thread, or ignores it already, is left alone."""
    ours = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if ours else None
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)


def _begin() -> None:
    """What a worker does before its first task."""
    import_later()
    _follow_parent()


def _follow_parent() -> None:
    """Ends this worker when its parent has gone: a killed parent cannot tell its pool."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait_for([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
