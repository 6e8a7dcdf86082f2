"""Requests at a rate from a process of its own: what else a drill does would be measured as the server's.

The drill's own process moves aliases, copies bundles and holds tests' modules: a search of its garbage collector alone
takes 90 ms, in which none of its threads sends or reads.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import statistics
import time
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from helpers.serving import Connection

RATE = 200.0  # requests/s
PROBE_S = 0.1
START_S = 60.0  # for a process that imports, on a machine that is busy
FOR_EVER = float("inf")
ANY = range(1000)
Body = dict[str, Any]
Judge = Callable[[Body, int, Any], str]


class Taken(NamedTuple):
    """One request: when it was due, seconds of this machine's monotonic clock, how long it took, what came."""

    due: float
    took: float
    status: int


class Load:
    """Requests at a rate, whatever the server does, but for `most` at once; each answer is judged. Beside them GET
    /health, as a probe asks it: on a new connection each time.

    What waits for one of the `most` counts from when it was due. `taken`, `probes` and `wrong` are there at the end of
    the `with` block.

    Args:
        bodies: what is asked, over and over.
        judge: what is wrong with an answer, or nothing; of a module, so that it can be sent to the process.
    """

    def __init__(
        self,
        port: int,
        bodies: Sequence[Body],
        judge: Judge,
        *,
        path: str = "/predict",
        rate: float = RATE,
        most: int = 10**6,
    ) -> None:
        self.taken: list[Taken] = []
        self.probes: list[Taken] = []
        self.wrong: Counter[str] = Counter()
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_run, args=(there, port, path, bodies, judge, rate, most), daemon=True)

    def __enter__(self) -> Load:
        self._process.start()
        if not self._here.poll(START_S):
            raise RuntimeError(f"the process that asks did not start within {START_S:.0f} s")
        self._here.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self._here.send("stop")
        self.taken, self.probes, self.wrong = self._here.recv()
        self._process.join()

    def p99_ms(self, begin: float = 0.0, end: float = FOR_EVER, statuses: Container[int] = ANY) -> float:
        """Of what was due in a span of time.monotonic(); nan where that was next to nothing."""
        times = [one.took for one in self.taken if begin <= one.due < end and one.status in statuses]
        return statistics.quantiles(times, n=100)[98] * 1e3 if len(times) > 100 else float("nan")

    def slowest_probe_ms(self, begin: float = 0.0, end: float = FOR_EVER) -> float:
        """Of /health, in the same way."""
        return max((one.took for one in self.probes if begin <= one.due < end), default=float("nan")) * 1e3


@dataclass(frozen=True)
class Known:
    """Answers that are known: by model and state. What is one model's name and another's multiplier is mixed."""

    multipliers: Mapping[tuple[str, tuple[float, ...]], float]

    def __call__(self, body: Body, status: int, answer: Any) -> str:
        if status != 200:
            return f"status {status}"
        expected = self.multipliers.get((answer["model_version"], tuple(body["state"])), -1.0)
        wanted = answer.get("risk", {}).get("wanted", {}).get("BTC-USDT", answer["position_multiplier"])
        return "" if abs(wanted - expected) < 1e-9 else "mixed version"


def served(_: Body, status: int, __: Any) -> str:
    """Whether it was answered at all."""
    return "" if status == 200 else f"good client: status {status}"


def answered_or_refused(_: Body, status: int, __: Any) -> str:
    """Whether it was answered, or refused as one too many."""
    return "" if status in (200, 429, 503) else f"overload: status {status}"


def _run(pipe: Any, *arguments: Any) -> None:
    gc.freeze()  # what was imported: a collection need not look through it while something is measured
    pipe.send("ready")
    pipe.send(asyncio.run(_load(pipe, *arguments)))


async def _load(
    pipe: Any, port: int, path: str, bodies: Sequence[Body], judge: Judge, rate: float, most: int
) -> tuple[list[Taken], list[Taken], Counter[str]]:
    idle: list[Connection] = []
    tasks: set[asyncio.Task[None]] = set()
    taken: list[Taken] = []
    probes: list[Taken] = []
    wrong = Counter[str]()

    async def one(number: int, due: float) -> None:
        body, status = bodies[number % len(bodies)], 0
        try:
            connection = idle.pop() if idle else await Connection.to(port)
            try:
                status, answer = await connection.post(path, body)
            except (OSError, asyncio.IncompleteReadError):  # closed while it was idle: as every client, once more
                connection = await Connection.to(port)
                status, answer = await connection.post(path, body)
            if problem := judge(body, status, answer):
                wrong[problem] += 1
            idle.append(connection)
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            wrong[type(error).__name__] += 1
        taken.append(Taken(due, time.monotonic() - due, status))

    async def probe() -> None:
        while True:
            due, status = time.monotonic(), 0
            try:
                connection = await Connection.to(port)
                if (status := await connection.get("/health")) != 200:
                    wrong[f"/health: status {status}"] += 1
                connection.close()
            except (OSError, asyncio.IncompleteReadError) as error:
                wrong[f"/health: {type(error).__name__}"] += 1
            probes.append(Taken(due, time.monotonic() - due, status))
            await asyncio.sleep(PROBE_S)

    number, due = 0, time.monotonic()
    prober = asyncio.create_task(probe())
    while not pipe.poll():
        due += 1.0 / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        while len(tasks) >= most:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        tasks.add(task := asyncio.create_task(one(number, due)))
        task.add_done_callback(tasks.discard)
        number += 1
    prober.cancel()
    await asyncio.gather(*tasks)
    for connection in idle:
        connection.close()
    return taken, probes, wrong
