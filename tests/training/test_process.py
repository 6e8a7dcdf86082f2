"""Whole processes: the same seed in two of them, kill -9 at any moment, Ctrl-C on the command line."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pandas as pd
import pytest

from helpers import PATIENCE_S, himari_here, run_himari
from helpers.training import train_small
from helpers.warm import Begun, Warm
from himari_rl.data.synthetic import synthetic_bars

NAME = "checkpoint-0.safetensors"
RECORD = "training.json"


def weights(out: Path) -> bytes:
    return (out / "bundle" / "weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def processes():
    """Processes that start in milliseconds, because torch is imported once; each can be killed for real."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["himari_rl.training.job", "helpers.training"])
    return context


def test_killed_at_random_moments_and_resumed_it_ends_as_if_never_interrupted(processes, tmp_path: Path) -> None:
    straight = processes.Process(target=train_small, args=(tmp_path / "straight", False))
    straight.start()
    straight.join(PATIENCE_S)
    assert straight.exitcode == 0
    moments, out, died_midway, ended = random.Random(0), tmp_path / "killed", 0, 0
    while died_midway < 5:
        process = processes.Process(target=train_small, args=(out, (out / NAME).exists()))
        process.start()
        deadline = time.monotonic() + PATIENCE_S
        while not (out / NAME).exists() and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.001)
        process.join(moments.uniform(0.0, 0.4 / 2**ended))  # the sooner, the faster this machine is
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL and not (out / "bundle").exists():
            died_midway += 1
            continue
        assert process.exitcode in (0, -signal.SIGKILL)  # it came to its end before the signal: begun anew
        shutil.rmtree(out)
        ended += 1
        assert ended < 12
    last = processes.Process(target=train_small, args=(out, True))
    last.start()
    last.join(PATIENCE_S)
    assert last.exitcode == 0
    assert weights(out) == weights(tmp_path / "straight")


@pytest.fixture(scope="module")
def bars_file(tmp_path_factory) -> Path:
    bars = synthetic_bars(3000, seed=5)
    path = tmp_path_factory.mktemp("bars") / "bars.parquet"
    columns = {"timestamp": pd.to_datetime(bars.timestamp, unit="ms", utc=True)}
    columns |= {name: getattr(bars, name) for name in ("open", "high", "low", "close", "volume")}
    pd.DataFrame(columns).to_parquet(path)
    return path


def command(bars_file: Path, out: Path, *more: str) -> list[str]:
    return [
        "train", "base", "--data", str(bars_file), "--symbol", "BTC-USD", "--num-episodes", "500", "--seeds", "1",
        "--save-interval", "50", "--out", str(out), "--json", *more,
    ]  # fmt: skip


def wait_for(path: Path, process: Begun, unlike: Path | None = None) -> None:
    while not path.exists() or (unlike is not None and path.samefile(unlike)):
        assert process.poll() is None, process.said
        time.sleep(0.01)


@pytest.fixture(scope="module")
def reference(bars_file: Path, tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("reference")
    done = run_himari(*command(bars_file, out), OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) | {"weights": weights(out)}


def test_the_same_command_gives_the_same_weights_in_another_process(bars_file, reference, tmp_path: Path) -> None:
    again = run_himari(*command(bars_file, tmp_path), OMP_NUM_THREADS="1")
    assert again.returncode == 0, again.stderr
    assert weights(tmp_path) == reference["weights"]


def test_a_command_that_was_told_to_ignore_ctrl_c_goes_on(
    warm: Warm, bars_file: Path, reference: dict, tmp_path: Path
) -> None:
    """As under nohup; the one in the next test hears it and stops."""
    process = warm.himari(command(bars_file, tmp_path), deaf=True)
    wait_for(tmp_path / NAME, process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said
    assert weights(tmp_path) == reference["weights"]


def test_the_command_interrupted_and_then_killed_resumes_to_the_same_weights(
    warm: Warm, bars_file: Path, reference: dict, tmp_path: Path
) -> None:
    process = warm.himari(command(bars_file, tmp_path))
    wait_for(tmp_path / NAME, process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert said.strip().splitlines()[-1].startswith("himari: stopped")
    assert "Traceback" not in said
    assert not (tmp_path / "bundle").exists()

    (tmp_path / NAME).rename(tmp_path / "first")
    os.link(tmp_path / "first", tmp_path / NAME)  # a newer checkpoint has another inode
    process = warm.himari(command(bars_file, tmp_path, "--resume"))
    wait_for(tmp_path / NAME, process, unlike=tmp_path / "first")
    process.kill()
    process.communicate(timeout=PATIENCE_S)
    assert not (tmp_path / "bundle").exists()

    resumed = warm.himari(command(bars_file, tmp_path, "--resume"))
    document, said = resumed.communicate()
    assert resumed.returncode == 0, said
    assert weights(tmp_path) == reference["weights"]
    assert json.loads(document)["bars"] == reference["bars"]


@pytest.mark.parametrize("turn", range(int(os.environ.get("HIMARI_PREEMPTIONS", "1"))))
def test_sigterm_writes_a_checkpoint_from_which_the_run_goes_on(
    warm: Warm, bars_file: Path, reference: dict, tmp_path: Path, turn: int
) -> None:
    """save_interval would write one only at the end: the one there is is the signal's."""
    late = ("--set", "train.save_interval=100000")
    process = warm.himari(command(bars_file, tmp_path, *late))
    wait_for(tmp_path / RECORD, process)
    process.terminate()
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert (tmp_path / NAME).exists()
    assert not (tmp_path / "bundle").exists()
    resumed = warm.himari(command(bars_file, tmp_path, "--resume", *late))
    _, said = resumed.communicate()
    assert resumed.returncode == 0, said
    assert weights(tmp_path) == reference["weights"]


@pytest.mark.parametrize("fault", ["full disk", "pipe that nobody reads", "closed pipe"])
def test_a_stderr_that_cannot_be_written_does_not_end_a_run(
    warm: Warm, bars_file: Path, reference: dict, tmp_path: Path, fault: str
) -> None:
    reading, writing = os.pipe()
    if fault == "closed pipe":
        os.close(reading)
    elif fault == "full disk":
        os.close(writing)
        writing = os.open("/dev/full", os.O_WRONLY)
    else:
        os.set_blocking(writing, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, b"x" * 65_536)
        os.set_blocking(writing, True)
    try:
        process = warm.himari(command(bars_file, tmp_path), stderr=writing)
        process.communicate(timeout=PATIENCE_S)
    finally:
        os.close(writing)
        if fault != "closed pipe":
            os.close(reading)
    assert process.returncode == 0
    assert weights(tmp_path) == reference["weights"]


def test_two_trainings_in_one_folder_are_refused(warm: Warm, bars_file: Path, tmp_path: Path) -> None:
    process = warm.himari(command(bars_file, tmp_path))
    wait_for(tmp_path / RECORD, process)
    process.send_signal(signal.SIGSTOP)
    try:
        for more in ((), ("--resume",), ("--overwrite",)):
            second = himari_here(*command(bars_file, tmp_path, *more))
            assert second.returncode == 2, more
            assert "another run is writing in" in second.stderr
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE_S)


def test_resuming_with_other_flags_is_one_line_and_code_2(bars_file: Path, reference: dict) -> None:
    out = Path(reference["bundle"]).parent
    record = (out / RECORD).read_text()
    other = himari_here(*command(bars_file, out, "--resume", "--learning-rate", "0.1"))
    assert other.returncode == 2
    assert other.stdout == ""
    line = other.stderr.strip().splitlines()[-1]
    assert "belongs to another run (different agent)" in line
    assert "repeat the first command's flags" in line
    assert "Traceback" not in other.stderr
    assert weights(out) == reference["weights"]
    assert (out / RECORD).read_text() == record
