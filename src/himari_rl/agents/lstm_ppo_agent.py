"""The agent with memory. Trainer, export and runtime ask no kind.

With beliefs (the default on real bars) the memory is a drift net's, one more column of the evidence
(training/drift_net.py), and the agent is the base agent that reads the believed drift. On raw returns it is the
recurrent PPO: the base agent with an LSTM before its layers.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from himari_rl.agents.config import LSTMPPOConfig
from himari_rl.agents.networks import LSTMTrunk, Trunk
from himari_rl.agents.ppo_agent import PPOAgent


class LSTMPPOAgent(PPOAgent):
    """16 numbers and a memory in, one multiplier in [0, 2] and the next memory out.

    >>> agent = LSTMPPOAgent(LSTMPPOConfig(state_dim=16, action_dim=1, hidden_dim=128, lstm_hidden_dim=64,
    ...                                    lstm_num_layers=2, learning_rate=3e-4))
    >>> state = torch.zeros(1, 16)
    >>> state[0, [0, 3, 4]] = torch.tensor([0.8, 1.0, 1.0])  # BUY with confidence 0.8, tier T1, flat
    >>> multiplier, memory = agent.decide(state)
    >>> multiplier, memory = agent.decide(state, memory)  # the next bar
    >>> [tuple(part.shape) for part in memory]  # (h, c), each (layers, N, H)
    [(2, 1, 64), (2, 1, 64)]
    """

    kind = "lstm"
    config: LSTMPPOConfig

    def _build_trunk(self) -> Trunk:
        config = self.config
        if config.anchored:
            return super()._build_trunk()
        return LSTMTrunk(config.inputs, config.lstm_hidden_dim, config.lstm_num_layers, config.hidden)

    def network_spec(self) -> dict[str, object]:
        """The manifest's `network` field."""
        config = self.config
        if config.anchored:
            return super().network_spec()
        shape = {"trunk": "lstm", "lstm_hidden": config.lstm_hidden_dim, "lstm_layers": config.lstm_num_layers}
        return super().network_spec() | shape

    def serving_config(self) -> dict[str, object]:
        """What becomes of the memory of a session that missed bars."""
        return super().serving_config() if self.config.anchored else {"gap_rule": self.config.gap_rule}

    def named_weights(self) -> dict[str, Tensor]:
        """The actor's weights by the names the runtime knows; torch's two biases of a gate as their sum."""
        trunk = self.trunk
        if not isinstance(trunk, LSTMTrunk):
            return super().named_weights()
        named: dict[str, Tensor] = {f"trunk.{k}": value for k, value in trunk.after.layers.named_parameters()}
        for k in range(self.config.lstm_num_layers):
            ih, hh, bias_ih, bias_hh = (getattr(trunk.lstm, f"{part}_l{k}") for part in _PARTS)
            named |= {f"lstm.{k}.weight_ih": ih, f"lstm.{k}.weight_hh": hh, f"lstm.{k}.bias": bias_ih + bias_hh}
        return named | {f"out.{name}": value for name, value in self.out.named_parameters()}

    @torch.no_grad()
    def start_from(self, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        """As the base agent; a gate's bias goes to one of torch's two, and the other is 0."""
        super().start_from(tensors)
        if not isinstance(self.trunk, LSTMTrunk):
            return
        for k in range(self.config.lstm_num_layers):
            getattr(self.trunk.lstm, f"bias_ih_l{k}").copy_(torch.as_tensor(tensors[f"lstm.{k}.bias"]))
            getattr(self.trunk.lstm, f"bias_hh_l{k}").zero_()


_PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
