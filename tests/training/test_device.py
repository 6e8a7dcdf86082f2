"""The GPU learns what the CPU learns (where there is one); and the products' setting is put back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from himari_rl.agents.config import LSTMPPOConfig, PPOConfig
from himari_rl.certification.attempts import config_for, draw_training, encoder_for, environment_for, training_market
from himari_rl.certification.markets import market_named
from himari_rl.certification.thresholds import Budget
from himari_rl.envs.physics import Physics
from himari_rl.training.device import fast_products, one_thread
from himari_rl.training.job import train_agent
from himari_rl.training.trainer import Trainer

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
SMALL = {
    "num_envs": 64,
    "num_steps": 20,
    "minibatch": 1_280,
    "random_position_fraction": 0.0,
    "analytic_gradient_fraction": 1.0,
}
EACH = pytest.mark.parametrize(("config", "name"), [(PPOConfig(**SMALL), "M2"), (LSTMPPOConfig(**SMALL), "M3z")])


def trained(device: str, config: PPOConfig, name: str) -> list[torch.Tensor]:
    """Weights after 20 rollouts."""
    market = market_named(name)
    rows, built = training_market(market, draw_training(market, Budget(distinct=20_010), False, 0), device)
    physics = Physics(built, environment_for(market), encoder_for(market))
    trainer = train_agent(physics, config_for(market, config), rows, 25_600, 3)
    return [p.detach().cpu() for p in trainer.agent.actor_parameters()]


@EACH
def test_a_run_repeats_bit_for_bit_on_the_device_there_is(config: PPOConfig, name: str) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for a, b in zip(trained(device, config, name), trained(device, config, name), strict=True):
        assert torch.equal(a, b)


@needs_cuda
@EACH
def test_gpu_and_cpu_move_the_weights_alike(config: PPOConfig, name: str) -> None:
    # other random numbers, so other accounts: the weights are compared in size, the shares in device_speed.py
    for a, b in zip(trained("cuda", config, name), trained("cpu", config, name), strict=True):
        assert a.device == b.device
        assert a.norm() == pytest.approx(float(b.norm()), rel=0.25, abs=0.25)
        assert bool(np.isfinite(a.numpy()).all())


def watched(work: Callable, inside: list[int]) -> Callable:
    """The same work, which notes how many threads torch has while it is done."""

    def wrapped(*args: object) -> object:
        inside.append(torch.get_num_threads())
        return work(*args)

    return wrapped


@pytest.mark.parametrize("width", [8, 128])
def test_the_weights_do_not_depend_on_the_number_of_threads_there_are(width: int, monkeypatch) -> None:
    """A run that is stopped on one machine may go on on another, with more cores; none takes more than it is given."""
    before, found, inside = torch.get_num_threads(), [], []
    monkeypatch.setattr(Trainer, "rolling", watched(Trainer.rolling, inside))
    for config in (PPOConfig(**SMALL, hidden_dim=width), LSTMPPOConfig(**SMALL, hidden_dim=width)):
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(trained("cpu", config, "M2"))
            assert torch.get_num_threads() == threads
        torch.set_num_threads(before)
        assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))
        found.clear()
    assert set(inside) == {1}


def test_the_products_setting_is_put_back_even_after_an_error() -> None:
    before = torch.get_float32_matmul_precision()

    def fails() -> None:
        with fast_products():
            assert torch.get_float32_matmul_precision() == "medium"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert torch.get_float32_matmul_precision() == before


def test_the_number_of_threads_is_put_back_even_after_an_error() -> None:
    def fails() -> None:
        with one_thread():
            assert torch.get_num_threads() == 1
            raise RuntimeError

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(RuntimeError):
            fails()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
