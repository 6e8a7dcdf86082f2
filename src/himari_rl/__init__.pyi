"""The front door's types; tests/house/test_front_door.py compares its names with __init__.py."""

from himari_rl.agents.config import LSTMPPOConfig as LSTMPPOConfig
from himari_rl.agents.config import MultiPPOConfig as MultiPPOConfig
from himari_rl.agents.config import PPOConfig as PPOConfig
from himari_rl.agents.lstm_ppo_agent import LSTMPPOAgent as LSTMPPOAgent
from himari_rl.agents.ppo_agent import PPOAgent as PPOAgent
from himari_rl.data.panel import load_panel as load_panel
from himari_rl.data.sources import load_bars as load_bars
from himari_rl.envs.config import MultiAssetEnvConfig as MultiAssetEnvConfig
from himari_rl.envs.config import TradingEnvConfig as TradingEnvConfig
from himari_rl.envs.multi_asset_env import MultiAssetTradingEnv as MultiAssetTradingEnv
from himari_rl.envs.trading_env import TradingEnv as TradingEnv
from himari_rl.experiments.evaluate import evaluate as evaluate
from himari_rl.experiments.run import walk_forward as walk_forward
from himari_rl.experiments.train import train as train
from himari_rl.features.encoder import StateEncoder as StateEncoder
from himari_rl.policy.risk import RiskLimits as RiskLimits
from himari_rl.policy.runtime import Policy as Policy
from himari_rl.policy.runtime import load_policy as load_policy
from himari_rl.release.gate import gate as gate
from himari_rl.schema import Bars as Bars

__version__: str
__all__: list[str]
