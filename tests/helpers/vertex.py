"""The card's trainers as processes: small bars in a bucket, small nets, an empty working folder."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from helpers import PATIENCE_S, ROOT
from himari_rl.data.synthetic_panel import synthetic_panel
from himari_rl.data.table import write_bars
from himari_rl.storage import gcs

SYMBOLS = ("BTC-USD", "ETH-USD", "SOL-USD")
SCRIPTS = {"base": "trainer.py", "lstm": "trainer_lstm.py", "multi": "trainer_multiasset.py"}
DIRS = {"base": "models/himari-rl", "lstm": "models/himari-rl-lstm", "multi": "models/himari-rl-multiasset"}
NO_FOLDER_RENAME = """
import errno, os
_rename = os.rename
def rename(source, to, **more):
    if os.path.isdir(source):
        raise OSError(errno.EMFILE, "Too many open files", source)
    _rename(source, to, **more)
os.rename = os.replace = rename
"""
"""A sitecustomize.py under which folders cannot be renamed, as on gcsfuse."""
SMALL = ("--seeds", "1", "--set", "agent.num_envs=20", "--set", "agent.hidden_dim=8", "--set", "agent.minibatch=500")


def put_market(bucket: str, folder: Path, rows: int = 1600, start: int = 0) -> None:
    """Bars of three symbols in gs://bucket/data; those from row `start` on, as a file of their own."""
    for bars in synthetic_panel(SYMBOLS, rows, seed=0).each:
        path = folder / f"{bars.symbol}_1h_{start}.csv"
        write_bars(bars[start:], path)
        gcs.create(f"gs://{bucket}/data/{path.name}", path.read_bytes())


def trainer(kind: str, *words: str, bucket: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """Begins a trainer as Vertex AI would: nothing of this machine is known to it but the bucket's address."""
    cwd.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HIMARI_", "AIP_", "CLOUD_"))}
    command = [sys.executable, str(ROOT / "vertex_training" / SCRIPTS[kind]), "--bucket-name", bucket, *words]
    return subprocess.Popen(
        command,
        cwd=cwd,
        env={**kept, "PYTHONPATH": str(ROOT / "src"), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


_NURSERY = """
import json, os, sys, traceback
sys.path.insert(0, sys.argv[1])
from himari_rl.training.slim_torch import import_later
import_later()
import torch
import google.cloud.storage
from himari_rl.cloud import markets, training_run
from himari_rl.training import job
from himari_rl.data.sources import load_bars
from himari_rl.experiments import controls
import importlib
controls.REPLICATIONS = 200  # of a bootstrap whose intervals nobody reads
for line in sys.stdin:
    script, cwd, environment, *words = json.loads(line)
    child = os.fork()
    if not child:
        try:
            os.chdir(cwd)
            os.environ.update(environment)
            os._exit(importlib.import_module(script).main(words))
        except BaseException:
            traceback.print_exc()
            os._exit(99)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Nursery:
    """Trainers as processes that have their imports behind them: twenty that are killed cost no twenty starts."""

    def __init__(self, bucket: str, cwd: Path) -> None:
        self._bucket, self._said, self._cwd = bucket, cwd / "stderr.txt", cwd
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HIMARI_", "AIP_", "CLOUD_"))}
        with self._said.open("wb") as said:
            self._process = self._begun(kept, cwd, said)

    @staticmethod
    def _begun(kept: dict[str, str], cwd: Path, said: IO[bytes]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", _NURSERY, str(ROOT / "vertex_training")],
            cwd=cwd,
            env={**kept, "PYTHONPATH": str(ROOT / "src")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )

    @property
    def said(self) -> str:
        """The last words of its trainers on stderr."""
        return self._said.read_text(errors="replace")[-3000:]

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def finished(self, kind: str, *words: str, cwd: Path, **environment: str) -> str:
        """What a trainer said until its end, in a folder of its own, as `finished` of one that begins from nothing."""
        cwd.mkdir(parents=True, exist_ok=True)
        before = self._said.stat().st_size
        code = self.run(kind, *words, cwd=cwd, environment=environment)
        said = self._said.read_bytes()[before:].decode(errors="replace")
        assert code == 0, said
        return said

    def run(
        self,
        kind: str,
        *words: str,
        kill_after_s: float | None = None,
        cwd: Path | None = None,
        environment: Mapping[str, str] = types.MappingProxyType({}),
    ) -> int | None:
        """A trainer's exit code; None where it was killed with -9, so long after its beginning, before its end."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        name = SCRIPTS[kind].removesuffix(".py")
        place = [name, str(cwd or self._cwd), dict(environment)]
        stdin.write(json.dumps([*place, "--bucket-name", self._bucket, *words]) + "\n")
        stdin.flush()
        child = int(stdout.readline())
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            with contextlib.suppress(ProcessLookupError):  # it has come to its end
                os.kill(child, signal.SIGKILL)
        status = int(stdout.readline())
        return None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)


def finished(process: subprocess.Popen[str], code: int = 0) -> str:
    """What a trainer said until its end."""
    out, said = process.communicate(timeout=2 * PATIENCE_S)
    assert process.returncode == code, said + out
    return said
