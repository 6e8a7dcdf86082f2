"""The base PPO agent: normaliser, actor (trunk and head) and critic."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from himari_rl.agents.config import PPOConfig
from himari_rl.agents.distributions import Band, band_of, first_bias, outputs_of
from himari_rl.agents.networks import Critic, Memory, MLPTrunk, Trunk, orthogonal
from himari_rl.errors import ConfigError, StateError
from himari_rl.features.contract import account_mask
from himari_rl.policy.network import held_multipliers
from himari_rl.schema import BoolArray, FloatArray


class Normaliser(nn.Module):
    """Standardises features with statistics of the training rows; they travel in the bundle.

    `keep` masks what the net does not read. Account features are already of order one and stay as they are.
    """

    mean: Tensor  # (F,)
    std: Tensor  # (F,)
    keep: Tensor  # (F,) 1 where the actor's net reads the feature
    visible: Tensor  # (F,) 1 where the critic may read it

    def __init__(
        self, features: int, clip: float, state_dim: int | None = None, anchors: int = 0, assets: int = 1
    ) -> None:
        """Of `features` numbers, the first `state_dim` are a state of `assets`; the `anchors` after them stay as they
        are."""
        super().__init__()
        self.clip = clip
        self._state_dim = features if state_dim is None else state_dim
        self._anchors, self._assets = anchors, assets
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.register_buffer("keep", torch.ones(features))
        self.register_buffer("visible", torch.ones(features))

    def fit(self, rows: FloatArray, visible: BoolArray, account_inputs: bool) -> None:
        """Fits on training rows (D, F). `visible` (F,) marks the features that anything may read."""
        state = self._state_dim
        account = np.array(account_mask(rows.shape[1], self._assets))
        unit = np.zeros(rows.shape[1], bool)
        unit[state : state + self._anchors] = True
        mean, std = rows.mean(0), rows.std(0)
        plain = account | unit | (std < 1e-8)
        self.mean.copy_(torch.as_tensor(np.where(plain, 0.0, mean)))
        self.std.copy_(torch.as_tensor(np.where(plain, 1.0, std)))
        constant = ~account & ~unit & (std < 1e-8)
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
    trunk: Trunk

    def __init__(self, config: PPOConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config = config.sized()
        with torch.random.fork_rng(devices=[]):
            if generator is not None:  # nn.init draws from the global generator; seed it from ours and give it back
                torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator).item()))
            anchors = config.action_dim if config.anchored else 0
            self.normaliser = Normaliser(config.inputs, config.input_clip, config.state_dim, anchors, config.action_dim)
            self.trunk = self._build_trunk()
            self.out = orthogonal(nn.Linear(self.trunk.outputs, outputs_of(config.head, config.action_dim)), 0.01)
            with torch.no_grad():
                self.out.bias.copy_(first_bias(config.head, config.action_dim))
            self.critic = Critic(config.inputs, config.hidden)

    def _build_trunk(self) -> Trunk:
        return MLPTrunk(self.config.inputs, self.config.hidden)

    @property
    def reads_account(self) -> bool:
        """True when the net's own inputs depend on earlier actions, so a rollout must call it bar by bar."""
        return self.config.account_inputs

    def initial_memory(self, count: int) -> Memory:
        """What N environments remember at the start of an episode."""
        return self.trunk.initial_memory(count, self.out.weight.device)

    def normalised_states(self, states: Tensor) -> Tensor:
        """(..., F) raw states -> the actor's inputs: standardised, what it does not read masked to 0."""
        standardised: Tensor = self.normaliser(states)
        return standardised * self.normaliser.keep

    def critic_inputs(self, states: Tensor) -> Tensor:
        """(..., F) raw states -> the critic's inputs; it may read the account as well."""
        standardised: Tensor = self.normaliser(states)
        return standardised * self.normaliser.visible

    def band_of_normalised(
        self, normalised: Tensor, memory: Memory = None, fresh: Tensor | None = None
    ) -> tuple[Band, Memory]:
        """(T, N, F) of `normalised_states` -> the band each of them asks for, and the memory after the last."""
        out, memory = self.trunk(normalised, self.out, memory, fresh)
        return band_of(self.config.head, out, self._anchor(normalised)), memory

    def _anchor(self, normalised: Tensor) -> Tensor | None:
        """(..., A) the multiplier of which the band is a multiple: the first of the belief columns, never scaled."""
        config = self.config
        return normalised[..., config.state_dim : config.state_dim + config.action_dim] if config.anchored else None

    def band(self, states: Tensor, memory: Memory = None, fresh: Tensor | None = None) -> tuple[Band, Memory]:
        """The band that each of (T, N, F) raw states asks for, and the memory after the last."""
        return self.band_of_normalised(self.normalised_states(states), memory, fresh)

    def value(self, states: Tensor) -> Tensor:
        """(..., F) raw states -> (...) value."""
        value: Tensor = self.critic(self.critic_inputs(states))
        return value

    def actor_parameters(self) -> list[nn.Parameter]:
        """What is exported: the trunk's weights and the output layer's."""
        return [*self.trunk.parameters(), *self.out.parameters()]

    def network_spec(self) -> dict[str, object]:
        """The manifest's `network` field."""
        return {"trunk": "mlp", "hidden": list(self.config.hidden), "activation": "tanh", "head": self.config.head}

    def serving_config(self) -> dict[str, object]:
        """What a bundle's config says to its server, besides how it was trained."""
        # what is remembered of volatility is weeks old: a missing bar is no reason to forget it
        return {"gap_rule": "advance"} if self.config.anchored else {}

    def named_weights(self) -> dict[str, Tensor]:
        """The actor's parameters by the names the runtime knows."""
        named: dict[str, Tensor] = {
            f"trunk.{name.removeprefix('layers.')}": value for name, value in self.trunk.named_parameters()
        }
        return named | {f"out.{name}": value for name, value in self.out.named_parameters()}

    @torch.no_grad()
    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """The actor's weights as they are exported."""
        return {name: value.detach().cpu().numpy().copy() for name, value in self.named_weights().items()}

    @torch.no_grad()
    def start_from(self, tensors: Mapping[str, NDArray[np.float32]]) -> None:
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
    def normalised_rows(self, rows: FloatArray) -> FloatArray:
        """`normalised_states` of raw rows (D, F), numpy in and out, for what is fitted on the exported features."""
        raw = torch.as_tensor(rows, dtype=torch.float32, device=self.out.weight.device)
        return np.asarray(self.normalised_states(raw).double().cpu().numpy())

    @torch.no_grad()
    def decide(self, states: Tensor, memory: Memory = None) -> tuple[Tensor, Memory]:
        """Deterministic multipliers (N, A) in [0, 2] for raw states (N, F), and the memory for the next bar.

        Args:
            memory: what the last call returned for the same environments; None at an episode's start.

        Raises:
            StateError: states or memory of another type or shape, or with NaN or infinity.
        """
        self._require_states(states)
        self._require_memory(memory, states.shape[0])
        states = states.to(self.out.weight.dtype)
        band, memory = self.band(states[None], memory)
        return band.at(0).mean(held_multipliers(states, self.config.action_dim)), memory

    def _require_states(self, states: Tensor) -> None:
        features = self.config.inputs
        cure = f"build each row with StateEncoder, or with the {features} numbers of its `names`, in their order"
        if not isinstance(states, Tensor):
            found = f"states of type {type(states).__name__}"
            raise StateError(found, f"a torch.Tensor of (N, {features})", "torch.as_tensor(states) makes one")
        if states.shape == (features,):
            raise StateError(
                f"one state of ({features},)", f"a batch (N, {features})", "states[None] is a batch of one"
            )
        if states.ndim != 2 or states.shape[1] != features:
            raise StateError(f"states of shape {tuple(states.shape)}", f"(N, {features}), one row a decision", cure)
        if not bool(torch.isfinite(states).all()):
            row, column = torch.nonzero(~torch.isfinite(states))[0].tolist()
            found = f"{states[row, column].item()} at row {row}, feature {column + 1}"
            raise StateError(found, "finite numbers", "no feature may be missing: a stale or broken input is no state")

    def _require_memory(self, memory: Memory, count: int) -> None:
        if memory is None:
            return
        fresh, cure = self.initial_memory(count), "pass what decide() returned for these environments, or None at first"
        if fresh is None:
            raise StateError(
                f"a memory for an agent of kind {self.kind!r}", "None: it remembers nothing", "leave it out"
            )
        shape = tuple(fresh[0].shape)
        expected = f"(h, c), two tensors of (layers, N, H) = {shape}"
        if not (isinstance(memory, tuple) and len(memory) == 2 and all(isinstance(part, Tensor) for part in memory)):
            raise StateError(f"memory of type {type(memory).__name__}", expected, cure)
        if any(tuple(part.shape) != shape for part in memory):
            raise StateError(f"memory of shapes {' and '.join(str(tuple(m.shape)) for m in memory)}", expected, cure)
        if not all(bool(torch.isfinite(part).all()) for part in memory):
            raise StateError("NaN or infinity in the memory", "finite numbers", cure)
