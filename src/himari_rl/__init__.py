"""himari_rl: reinforcement-learning policies that size crypto positions, trained, proved and served.

The names below load on first use, so that importing the package pulls in neither torch nor gymnasium.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Bars": "schema",
    "LSTMPPOAgent": "agents.lstm_ppo_agent",
    "LSTMPPOConfig": "agents.config",
    "MultiAssetEnvConfig": "envs.config",
    "MultiAssetTradingEnv": "envs.multi_asset_env",
    "PPOAgent": "agents.ppo_agent",
    "PPOConfig": "agents.config",
    "Policy": "policy.runtime",
    "StateEncoder": "features.encoder",
    "TradingEnv": "envs.trading_env",
    "TradingEnvConfig": "envs.config",
    "load_bars": "data.sources",
    "load_policy": "policy.runtime",
}

__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'himari_rl' has no attribute {name!r}")
    return getattr(import_module(f"himari_rl.{_HOME[name]}"), name)
