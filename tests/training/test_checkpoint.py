"""Checkpoints: resumed is uninterrupted, bit for bit; damaged is refused; a full disk leaves nothing half-written."""

from __future__ import annotations

import errno
import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from helpers.envs import random_bars
from helpers.training import SMALL, agent_of, physics_of, trainer_of
from himari_rl.agents.config import PPOConfig
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.errors import StorageError
from himari_rl.training import job as job_module
from himari_rl.training.checkpoint import load_checkpoint, save_checkpoint
from himari_rl.training.job import Job, interrupt_between_rollouts, run_job

BARS = random_bars(600, 8)
ROLLOUTS = 10
JOB = Job(
    agent=PPOConfig(**SMALL),
    environment=TradingEnvConfig(episode_bars=20),
    num_episodes=ROLLOUTS * 120 // 20,
    save_interval=6,  # one rollout
    seeds=(0,),
    device="cpu",
)
NAME = "checkpoint-0.safetensors"


def weights(out: Path) -> bytes:
    return (out / "bundle" / "weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    """The weights of a run that nobody interrupted."""
    out = tmp_path_factory.mktemp("whole")
    run_job(JOB, BARS, out)
    return weights(out)


class Stop(Exception):
    """The machine goes away here."""


@pytest.mark.parametrize("at", [1, 5, 6, 9, 10])
def test_a_run_that_died_after_any_rollout_ends_as_if_it_had_not(at: int, whole: bytes, tmp_path: Path) -> None:
    def die(trainer, seed):
        if trainer.state.rollout == at:
            raise Stop

    with pytest.raises(Stop):
        run_job(JOB, BARS, tmp_path, watch=die)
    assert not (tmp_path / "bundle").exists()
    rollouts = []
    run_job(JOB, BARS, tmp_path, resume=True, watch=lambda trainer, seed: rollouts.append(trainer.state.rollout))
    assert rollouts == list(range(at + 1, ROLLOUTS + 1))
    assert weights(tmp_path) == whole


@pytest.mark.parametrize("variant", [{"advantage": "gae"}, {"account_inputs": True}, {"head": "squash"}])
def test_every_kind_of_agent_resumes(variant: dict, tmp_path: Path) -> None:
    def trained(upto: int | None) -> list[torch.Tensor]:
        trainer = trainer_of(agent_of(**variant), physics_of(BARS, reward="differential_sharpe"), 8)
        if upto:
            for _ in range(upto):
                trainer.one_rollout()
            save_checkpoint(tmp_path / "c", trainer, "f")
            trainer = trainer_of(agent_of(1, **variant), physics_of(BARS, reward="differential_sharpe"), 8, seed=1)
            load_checkpoint(tmp_path / "c", trainer, "f")
        trainer.run()
        return [p.detach() for p in trainer.agent.parameters()]

    straight = trained(None)
    assert all(torch.equal(a, b) for upto in (2, 6) for a, b in zip(straight, trained(upto), strict=True))


def test_without_the_generator_a_resume_would_differ(tmp_path: Path, monkeypatch, whole: bytes) -> None:
    def die(trainer, seed):
        if trainer.state.rollout == 5:
            raise Stop

    with pytest.raises(Stop):
        run_job(JOB, BARS, tmp_path, watch=die)

    def forgetful(path, trainer, data):
        load_checkpoint(path, trainer, data)
        trainer.generator.manual_seed(0)

    monkeypatch.setattr(job_module, "load_checkpoint", forgetful)
    run_job(JOB, BARS, tmp_path, resume=True)
    assert weights(tmp_path) != whole


def test_another_seed_gives_other_weights(whole: bytes, tmp_path: Path) -> None:
    run_job(Job(**{**vars(JOB), "seeds": (1,)}), BARS, tmp_path)
    assert weights(tmp_path) != whole


def test_ctrl_c_waits_for_its_rollout_saves_it_and_can_be_resumed(whole: bytes, tmp_path: Path) -> None:
    job = Job(**{**vars(JOB), "save_interval": 10_000})
    done = []

    def press(trainer, seed):
        done.append(trainer.state.rollout)
        if trainer.state.rollout == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_job(job, BARS, tmp_path, watch=press)
    assert done == [1, 2, 3, 4]
    assert (tmp_path / NAME).exists()
    assert not (tmp_path / "bundle").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    run_job(job, BARS, tmp_path, resume=True, watch=press)
    assert done == list(range(1, ROLLOUTS + 1))
    assert weights(tmp_path) == whole


def test_a_second_ctrl_c_does_not_wait_and_a_late_one_is_not_lost() -> None:
    reached = []

    def twice() -> None:
        with interrupt_between_rollouts() as pressed:
            signal.raise_signal(signal.SIGINT)
            assert pressed()
            reached.append("after the first")
            signal.raise_signal(signal.SIGINT)
            reached.append("after the second")

    with pytest.raises(KeyboardInterrupt):
        twice()
    assert reached == ["after the first"]
    with pytest.raises(KeyboardInterrupt), interrupt_between_rollouts():
        signal.raise_signal(signal.SIGINT)


def test_the_handlers_of_others_and_other_threads_are_left_alone() -> None:
    heard = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    try:
        with interrupt_between_rollouts() as pressed:
            signal.raise_signal(signal.SIGINT)
            assert not pressed()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup starts it
        with interrupt_between_rollouts() as pressed:
            signal.raise_signal(signal.SIGINT)
            assert not pressed()
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [1]

    def elsewhere():
        with interrupt_between_rollouts() as pressed:
            heard.append(pressed())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert heard == [1, False]


@pytest.fixture
def saved(tmp_path: Path):
    """A trainer after two rollouts and its checkpoint."""
    trainer = trainer_of(agent_of(), physics_of(BARS), 8)
    trainer.one_rollout()
    trainer.one_rollout()
    save_checkpoint(tmp_path / NAME, trainer, "bars")
    return trainer, tmp_path / NAME


def test_every_flipped_bit_is_refused_in_one_line(saved) -> None:
    trainer, path = saved
    data = path.read_bytes()
    silent = 0
    for place in range(0, len(data), len(data) // 150):
        damaged = bytearray(data)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with pytest.raises(StorageError, match=r"is damaged .*; train again without --resume") as caught:
            load_checkpoint(path, trainer, "bars")
        assert "\n" not in str(caught.value)
        try:
            load(bytes(damaged))
            silent += 1
        except Exception:  # noqa: BLE001, S110 - the count is of those that safetensors alone lets through
            pass
    assert silent > 100


@pytest.mark.parametrize("keep", [0, 5, 100, 5000, -1])
def test_a_truncated_checkpoint_is_refused(saved, keep: int) -> None:
    trainer, path = saved
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StorageError, match="is damaged"):
        load_checkpoint(path, trainer, "bars")


def test_a_checkpoint_of_another_run_is_refused_by_what_differs(saved) -> None:
    trainer, path = saved
    load_checkpoint(path, trainer, "bars")
    others = {
        "data": (trainer, "other bars"),
        "rollouts": (trainer_of(agent_of(), physics_of(BARS), 9), "bars"),
        "agent": (trainer_of(agent_of(gamma=0.5), physics_of(BARS), 8), "bars"),
        "environment": (trainer_of(agent_of(), physics_of(BARS, ruin=0.4), 8), "bars"),
    }
    for what, (other, bars) in others.items():
        with pytest.raises(StorageError, match=rf"another run \(different {what}\)"):
            load_checkpoint(path, other, bars)


def test_a_full_disk_leaves_the_earlier_checkpoint_and_nothing_half_written(saved, monkeypatch) -> None:
    trainer, path = saved
    before = path.read_bytes()
    trainer.one_rollout()
    written = os.write

    def full(descriptor, data):
        if len(data) < 2000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(descriptor, data[:2000])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError, match=r"cannot write .*No space left on device; free space"):
        save_checkpoint(path, trainer, "bars")
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [NAME]


def test_a_disk_that_fills_during_the_run_stops_it_without_a_bundle(tmp_path: Path, monkeypatch) -> None:
    written, calls = os.write, []

    def full(descriptor, data):
        calls.append(len(data))
        if len(calls) > 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError, match="No space left on device"):
        run_job(JOB, BARS, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [NAME, "training.json"]
    monkeypatch.undo()
    trained = run_job(JOB, BARS, tmp_path, resume=True)
    assert trained.bundle.exists()
