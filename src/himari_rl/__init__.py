"""himari_rl: reinforcement-learning policies that size crypto positions, trained, proved and served.

    from himari_rl import evaluate, gate, load_bars, train, walk_forward

    bars = load_bars("BTC-USD_1h.parquet")
    policy = train(bars, out="runs/mine")           # PPO on the first 80 % of the bars
    print(evaluate(policy, bars))                   # its verdict on the last 20 %, with controls
    run = walk_forward(bars, out="runs/walk")       # month after month
    print(gate(run.bundle))                         # may it size money?

The names load on first use, so that importing the package pulls in neither torch nor gymnasium; `__init__.pyi` beside
this file gives their types.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Bars": "schema",
    "LSTMPPOAgent": "agents.lstm_ppo_agent",
    "LSTMPPOConfig": "agents.config",
    "MultiAssetEnvConfig": "envs.config",
    "MultiAssetTradingEnv": "envs.multi_asset_env",
    "MultiPPOConfig": "agents.config",
    "PPOAgent": "agents.ppo_agent",
    "PPOConfig": "agents.config",
    "Policy": "policy.runtime",
    "RiskLimits": "policy.risk",
    "StateEncoder": "features.encoder",
    "TradingEnv": "envs.trading_env",
    "TradingEnvConfig": "envs.config",
    "evaluate": "experiments.evaluate",
    "gate": "release.gate",
    "load_bars": "data.sources",
    "load_panel": "data.panel",
    "load_policy": "policy.runtime",
    "train": "experiments.train",
    "walk_forward": "experiments.run",
}

__all__ = [*_HOME, "__version__"]


def _register() -> None:
    """Gives gymnasium our environments' names where it is loaded; nobody else pays for it."""
    if sys.modules.get("gymnasium") is not None:  # None marks a module that may not be imported
        import_module("himari_rl.envs.registration").register_environments()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'himari_rl' has no attribute {name!r}")
    _register()
    return getattr(import_module(f"himari_rl.{_HOME[name]}"), name)


_register()
