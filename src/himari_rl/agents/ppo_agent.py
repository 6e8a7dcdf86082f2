"""The base PPO agent: what it sees, how it chooses, and the options of how it learns."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from himari_rl.agents.config import PPOConfig
from himari_rl.agents.distributions import Band, band_of, first_bias, outputs_of
from himari_rl.agents.networks import Critic, Memory, MLPTrunk, orthogonal
from himari_rl.errors import ConfigError
from himari_rl.features.contract import (
    ACCOUNT_COLUMNS,
    FEATURES,
)
from himari_rl.policy.network import held_multipliers


class Normaliser(nn.Module):
    """Standardises features with statistics of the training rows; they travel in the bundle.

    `keep` masks what the net does not read. Account features are already of order one and stay as they are.
    """

    def __init__(self, features: int, clip: float) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.register_buffer("keep", torch.ones(features))
        self.register_buffer("visible", torch.ones(features))

    def fit(self, rows: np.ndarray, visible: np.ndarray, account_inputs: bool) -> None:
        """Fits on training rows (D, F). `visible` (F,) marks the features that anything may read."""
        account = np.array([i % len(FEATURES) in ACCOUNT_COLUMNS for i in range(rows.shape[1])])
        mean, std = rows.mean(0), rows.std(0)
        plain = account | (std < 1e-8)
        self.mean.copy_(torch.as_tensor(np.where(plain, 0.0, mean)))
        self.std.copy_(torch.as_tensor(np.where(plain, 1.0, std)))
        constant = ~account & (std < 1e-8)
        keep = visible & ~constant & (~account | account_inputs)
        if not keep.any():  # nothing to see but constants: read those, so that the net still has an input
            keep = visible & ~account
        self.keep.copy_(torch.as_tensor(keep))
        self.visible.copy_(torch.as_tensor(visible & ~constant))

    def spec(self) -> dict[str, object]:
        """The manifest's `normaliser` field."""
        mean, std, keep = (x.double().tolist() for x in (self.mean, self.std, self.keep))
        return {"mean": mean, "std": std, "keep": [int(k) for k in keep], "clip": self.clip}

    def forward(self, states: Tensor) -> Tensor:
        """(..., F) raw -> (..., F) normalised, unmasked."""
        return ((states - self.mean) / self.std).clamp(-self.clip, self.clip)


class PPOAgent(nn.Module):
    """16 numbers in, one multiplier in [0, 2] out.

    >>> agent = PPOAgent(PPOConfig(state_dim=16, action_dim=1, hidden_dim=128, learning_rate=3e-4, gamma=0.99))
    >>> state = torch.zeros(1, 16)
    >>> state[0, [0, 3, 4]] = torch.tensor([0.8, 1.0, 1.0])  # BUY with confidence 0.8, tier T1, flat
    >>> multiplier, _ = agent.decide(state)
    >>> multiplier.shape
    torch.Size([1, 1])
    """

    kind = "base"

    def __init__(self, config: PPOConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            if generator is not None:  # nn.init draws from the global generator; seed it from ours and give it back
                torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator).item()))
            self.normaliser = Normaliser(config.state_dim, config.input_clip)
            self.trunk = self._build_trunk()
            self.out = orthogonal(nn.Linear(self.trunk.outputs, outputs_of(config.head, config.action_dim)), 0.01)
            with torch.no_grad():
                self.out.bias.copy_(first_bias(config.head, config.action_dim))
            self.critic = Critic(config.state_dim, config.hidden)

    def _build_trunk(self) -> nn.Module:
        return MLPTrunk(self.config.state_dim, self.config.hidden)

    @property
    def reads_account(self) -> bool:
        """True when the net's own inputs depend on earlier actions, so a rollout must call it bar by bar."""
        return self.config.account_inputs

    def initial_memory(self, count: int) -> Memory:
        return self.trunk.initial_memory(count, self.out.weight.device)

    def seen(self, states: Tensor) -> Tensor:
        """(..., F) raw states as the actor's net reads them."""
        return self.normaliser(states) * self.normaliser.keep

    def watched(self, states: Tensor) -> Tensor:
        """(..., F) raw states as the critic reads them."""
        return self.normaliser(states) * self.normaliser.visible

    def edges(self, seen: Tensor, memory: Memory = None, fresh: Tensor | None = None) -> tuple[Band, Memory]:
        """(T, N, F) of what is `seen` -> the band each of them asks for, and the memory after the last."""
        out, memory = self.trunk(seen, self.out, memory, fresh)
        return band_of(self.config.head, out), memory

    def band(self, states: Tensor, memory: Memory = None, fresh: Tensor | None = None) -> tuple[Band, Memory]:
        """`edges` of (T, N, F) raw states."""
        return self.edges(self.seen(states), memory, fresh)

    def value(self, states: Tensor) -> Tensor:
        """(..., F) raw states -> (...) value."""
        return self.critic(self.watched(states))

    def actor_parameters(self) -> list[nn.Parameter]:
        return [*self.trunk.parameters(), *self.out.parameters()]

    def network_spec(self) -> dict[str, object]:
        """The manifest's `network` field."""
        return {"trunk": "mlp", "hidden": list(self.config.hidden), "activation": "tanh", "head": self.config.head}

    def serving_config(self) -> dict[str, object]:
        """What a bundle's config tells its server beside how it was trained."""
        return {}

    def named_weights(self) -> dict[str, Tensor]:
        """The actor's parameters by the names the runtime knows."""
        named = {f"trunk.{name.removeprefix('layers.')}": value for name, value in self.trunk.named_parameters()}
        return named | {f"out.{name}": value for name, value in self.out.named_parameters()}

    @torch.no_grad()
    def tensors(self) -> dict[str, np.ndarray]:
        """The actor's weights as they are exported."""
        return {name: value.detach().cpu().numpy().copy() for name, value in self.named_weights().items()}

    @torch.no_grad()
    def start_from(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Takes over exported weights of the same network.

        Raises:
            ConfigError: they are another network's.
        """
        named = self.named_weights()
        wanted = {name: tuple(value.shape) for name, value in named.items()}
        found = {name: values.shape for name, values in tensors.items()}
        if wanted != found:
            raise ConfigError("weights of another network", f"{len(wanted)} tensors of this one's names and shapes")
        for name, parameter in named.items():
            parameter.copy_(torch.as_tensor(tensors[name]))

    @torch.no_grad()
    def normalised(self, states: np.ndarray) -> np.ndarray:
        """(N, F) raw states as the actor reads them, hidden features 0."""
        raw = torch.as_tensor(states, dtype=torch.float32, device=self.out.weight.device)
        return self.seen(raw).double().cpu().numpy()

    @torch.no_grad()
    def decide(self, states: Tensor, memory: Memory = None) -> tuple[Tensor, Memory]:
        """Deterministic multipliers (N, A) for raw states (N, F)."""
        band, memory = self.band(states[None], memory)
        return band.at(0).mean(held_multipliers(states, self.config.action_dim)), memory
