"""Early stopping keeps the weights of the best look at the validation slice, and only those."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from himari_rl.experiments import folds
from himari_rl.experiments.folds import PATIENCE_ROLLOUTS, EarlyStopping


def run(monkeypatch: pytest.MonkeyPatch, gains: list[float], judge: object) -> float:
    """The weight after a run whose weight is the number of the look, and whose gain at look k is gains[k - 1]."""
    weight = torch.nn.Parameter(torch.zeros(1))
    agent = SimpleNamespace(actor_parameters=lambda: [weight])
    monkeypatch.setattr(folds, "mean_gain", lambda agent, judge: gains[int(weight.item()) - 1])
    stopping = EarlyStopping(judge)  # type: ignore[arg-type]
    for look in range(1, len(gains) + 1):
        weight.data.fill_(look)
        stopping(SimpleNamespace(agent=agent, state=SimpleNamespace(rollout=look * PATIENCE_ROLLOUTS)))  # type: ignore[arg-type]
    stopping.restore(agent)  # type: ignore[arg-type]
    return weight.item()


def test_the_best_look_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, [0.1, 0.3, 0.2], object()) == 2.0


def test_weights_that_are_best_at_the_end_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, [0.1, 0.2, 0.3], object()) == 3.0


def test_without_a_slice_nothing_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, [0.1, 0.3, 0.2], None) == 3.0
