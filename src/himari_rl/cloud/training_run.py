"""A training job on Google Cloud: bars from a bucket; bundle, evaluation and gate verdict back into it.

MODEL_DIR/checkpoints/                 every save_interval and at SIGTERM; the same command goes on from there
MODEL_DIR/training.json                what is trained
MODEL_DIR/bundle/                      manifest (last), weights, evaluation.json
MODEL_DIR/gate.json                    the gate's verdict: it comes last, and says that the run is finished
MODEL_DIR/fresh.json                   which launch began it with --fresh: its own restarts go on from there
MODEL_DIR/latest.json                  an alias of the newest finished run; `himari promote` moves the one that serves

A run of other settings or other bars is made beside the one that is there, MODEL_DIR.20240229-3f2a1b, and nothing that
an alias may name is ever written over.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from himari_rl.cloud.config import label
from himari_rl.cloud.meter import launch_in
from himari_rl.config import config_hash
from himari_rl.data.panel import Panel
from himari_rl.evaluation.record import BUNDLE, read_document
from himari_rl.experiments.config import EvaluateConfig
from himari_rl.experiments.evaluate import evaluate
from himari_rl.experiments.run_folder import TRAINING, RunIdentity
from himari_rl.experiments.train import identity_of, recorded_job
from himari_rl.policy.alias import point
from himari_rl.policy.bundle import MANIFEST, read_manifest
from himari_rl.release.gate import gate, record
from himari_rl.release.rules import GateRules
from himari_rl.schema import Bars
from himari_rl.storage import is_file, is_remote, join, name_of, write_atomic
from himari_rl.storage.mirror import workplace
from himari_rl.training.job import Job, trainable
from himari_rl.training.record import RECORD
from himari_rl.training.watch import Watch
from himari_rl.trials.store import VARIABLE

GATE, LATEST, FRESH = "gate.json", "latest.json", "fresh.json"
STOPPED = 143
"""128 + SIGTERM: no success, so that the job is begun again, and then it goes on."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where a job reads and writes, each local or gs://."""

    model_dir: str
    """Of the run: bundle, evaluation, verdict."""
    checkpoints: str = ""
    """Folder of checkpoints of any run; MODEL_DIR/checkpoints if not given."""
    tensorboard: str = ""
    """Event files; MODEL_DIR/tensorboard if not given."""
    trials: str = ""
    """The trial ledger, unless HIMARI_TRIALS names one."""


def train_in_cloud(
    job: Job,
    bars: Bars | Panel,
    places: Places,
    *,
    judged: EvaluateConfig,
    rules: GateRules,
    accept: Sequence[str] = (),
    fresh: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> int:
    """Trains, judges and asks the gate, from wherever an earlier attempt was stopped. Returns the exit code.

    Args:
        judged: how the bundle is evaluated on the bars that training never saw.
        rules: of the gate. Its refusal is a verdict and no failure: the exit code is 0.
        fresh: begins anew beside what is there.

    Raises:
        HimariError: bad input, a policy that degenerated, or a place that cannot be read or written.
    """
    out = run_place(places.model_dir, identity_of(job, trainable(job, bars)), bars, fresh=fresh)
    tell(f"run {out}")
    asked = f"{config_hash(rules)} {config_hash(judged)}"
    checkpoints = join(places.checkpoints, name_of(out)) if places.checkpoints else ""
    try:
        with _stopping(), _counting_in(places.trials):
            answer = None
            with workplace(out, snapshots=checkpoints) as folder:
                if fresh and launch_in(os.environ):
                    write_atomic(folder / FRESH, json.dumps({"launch": launch_in(os.environ)}).encode())
                whole = (folder / BUNDLE / MANIFEST).exists()
                if is_remote(out) and not whole:  # killed while its files followed: the manifest would have come last
                    shutil.rmtree(folder / BUNDLE, ignore_errors=True)
                if whole and (folder / GATE).exists():
                    tell("finished already, with these settings and bars; --fresh begins anew beside it")
                    if _asked(folder / GATE) != asked:
                        tell("its verdict is of other rules or another evaluation: `himari gate` asks again")
                else:
                    logs = places.tensorboard or str(folder / "tensorboard")
                    with workplace(logs) as events, Watch(Console(stderr=True), events) as watch:
                        recorded_job(job, bars, folder, resume=True, accept=accept, watch=watch, tell=tell)
                    found = evaluate(folder / BUNDLE, bars, accept=accept, **vars(judged))
                    tell(found.verdict.sentence)
                    answer = gate(folder / BUNDLE, rules)
                    tell(f"gate: {answer.reason}")
                    record(folder / BUNDLE, answer)
            if answer is not None:  # last of all: it says that a run is finished, and a kill may come between any two
                with workplace(out, only=(GATE,), snapshots=checkpoints) as folder:
                    verdict = {**answer.to_dict(), "asked": asked}
                    write_atomic(folder / GATE, json.dumps(verdict, indent=2, allow_nan=False).encode())
    except KeyboardInterrupt:
        tell("stopped; the same command goes on from the last checkpoint")
        return STOPPED
    _announce(places.model_dir, join(out, BUNDLE))
    return 0


def run_place(model_dir: str, this: RunIdentity, bars: Bars | Panel, *, fresh: bool = False) -> str:
    """Where a run is: the folder asked for where it is free or holds this very run, else one beside it.

    Args:
        fresh: one beside it, of this launch (so that it too is continued) or of this moment.
    """
    there, launch = _run_at(model_dir), launch_in(os.environ)
    if there is None or (there == this and (not fresh or _begun_by(model_dir, launch))):
        return model_dir
    end = datetime.fromtimestamp(int(bars.timestamp[-1]) / 1000, UTC)
    beside = f"{model_dir.rstrip('/')}.{end:%Y%m%d}-{config_hash({'run': [this.settings, this.data]})[:6]}"
    if not fresh:
        return beside
    return f"{beside}-{label(launch) or datetime.now(UTC).strftime('%Y%m%d%H%M%S')}"


def _begun_by(place: str, launch: str) -> bool:
    """Whether a run was begun with --fresh by this very launch: then this is its restart."""
    marker = join(place, FRESH)
    return bool(launch) and is_file(marker) and read_document(marker).get("launch") == launch


def _asked(verdict: Path) -> str:
    """What a verdict was made with."""
    return str(read_document(verdict).get("asked", ""))


def _run_at(place: str) -> RunIdentity | None:
    if not is_file(join(place, RECORD)):
        return None
    said = read_document(join(place, RECORD))
    return RunIdentity(TRAINING, str(said["hash"]), f"{said['data']['sha256']} {','.join(said['symbols'])}")


def _announce(model_dir: str, bundle: str) -> None:
    """Points the alias of the newest run at a bundle, unless it stands there."""
    alias = join(model_dir, LATEST)
    target = bundle if is_remote(bundle) else str(Path(bundle).resolve())
    if is_file(alias):
        from himari_rl.policy.alias import read_alias

        if read_alias(alias).manifest_sha256 == read_manifest(target).manifest_sha256:
            return
    point(alias, target)


@contextmanager
def _counting_in(place: str) -> Iterator[None]:
    """The trial ledger of this place, unless the environment names one."""
    if os.environ.get(VARIABLE) or not place:
        yield
        return
    os.environ[VARIABLE] = place
    try:
        yield
    finally:
        del os.environ[VARIABLE]


@contextmanager
def _stopping() -> Iterator[None]:
    """SIGTERM is heard as Ctrl-C: the rollout at hand ends, its checkpoint is written, and then the program ends."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    try:
        signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
