"""Layer 3 for Layer 2: a multiplier within its deadline, or exactly 1.0 and why. The standard library and httpx.

from himari_rl.client import ClosedBar, Layer3, Signal

with Layer3("http://127.0.0.1:8080", ("BTC-USDT",)) as layer3:
    layer3.begin(closed_bars)                          # 20 or more earlier bars
    sized = layer3.decide(bar, signal)                 # at every close; never raises for the network
"""

from himari_rl.client.answers import PolicyAnswer
from himari_rl.client.caller import PolicyCaller
from himari_rl.client.config import ClientConfig
from himari_rl.client.layer3 import ClosedBar, Layer3, Sizing
from himari_rl.features.live import Signal

__all__ = ["ClientConfig", "ClosedBar", "Layer3", "PolicyAnswer", "PolicyCaller", "Signal", "Sizing"]
