"""Somebody's own policy in a process that is killed at any moment, again and again: the same bytes in the end."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from helpers import PATIENCE_S
from helpers.strangers import stranger
from helpers.warm import Begun, Warm
from himari_rl.evaluation.record import BUNDLE, CURVES, DOCUMENT
from himari_rl.storage.lock import LOCK

KILLS = int(os.environ.get("HIMARI_KILLS", "3"))
SCRIPT = """
import sys
sys.path[:0] = {path!r}
from helpers.verdict import small_bars
from himari_rl.experiments.run import walk_forward
import killed_policy
spans = dict(train="20d", test="10d", step="10d", purge_bars=24)
walk_forward(killed_policy.learns, small_bars(), out={out!r}, seeds=2, **spans)
"""


def started(warm: Warm, folder: Path, out: str) -> Begun:
    script = SCRIPT.format(path=[str(folder / "code"), *sys.path], out=str(folder / out))
    return warm.python(script, SOURCE_DATE_EPOCH="1700000000", HIMARI_TRIALS=str(folder / f"{out}.sqlite"))


def bytes_of(run: Path) -> dict[str, bytes]:
    names = [DOCUMENT, CURVES, f"{BUNDLE}/manifest.json", f"{BUNDLE}/weights.safetensors"]
    folds = sorted(path.relative_to(run).as_posix() for path in (run / "folds").rglob("*.fold"))
    return {name: (run / name).read_bytes() for name in [*names, *folds]}


def test_killed_at_any_moment_and_begun_again_it_leaves_the_same_bytes(warm: Warm, tmp_path: Path) -> None:
    stranger(tmp_path / "code", "killed_policy")
    begun = time.monotonic()
    process = started(warm, tmp_path, "whole")
    assert process.wait() == 0, process.said
    took = time.monotonic() - begun
    whole = bytes_of(tmp_path / "whole")
    chance, killed = random.Random(), 0  # the moments are others in every run: none may matter
    folds = tmp_path / "run" / "folds"
    while killed < KILLS:
        process = started(warm, tmp_path, "run")
        wanted, until = chance.randrange(0, len(whole) - 3), time.monotonic() + PATIENCE_S
        while process.poll() is None and len(list(folds.rglob("*.fold"))) < wanted and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 0.3 * took))
        process.send_signal(signal.SIGKILL)
        ended = process.wait()
        assert ended in (0, -signal.SIGKILL), process.said
        killed += 1
        if ended == 0:  # it came to its end before the signal
            break
    process = started(warm, tmp_path, "run")
    assert process.wait() == 0, process.said
    assert bytes_of(tmp_path / "run") == whole
    left = {path.name for path in (tmp_path / "run").iterdir()} - {LOCK}
    assert left == {path.name for path in (tmp_path / "whole").iterdir()} - {LOCK}
