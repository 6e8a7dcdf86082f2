"""An A/B test beside a runner that runs: takes what was decided since the last look, until there is a verdict."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from himari_rl.runner.ab import Experiment
from himari_rl.runner.verdict import RUNNING, AbReport, settle

LOOK_S = 5.0


def follow_until_stopped(experiment: Experiment, found: AbReport, look_s: float = LOOK_S) -> AbReport:
    """The last report; SIGTERM and Ctrl-C end it between two looks, a verdict at once."""
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        while found.verdict == RUNNING and not stopping.wait(look_s):
            if experiment.catch_up():
                found = settle(experiment.kept, experiment.live)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return found
