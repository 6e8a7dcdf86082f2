"""Layer 3 from Layer 2 in twenty lines: every closed bar is sized by the server, or by exactly 1.0 and the reason.

python examples/layer2_client.py http://127.0.0.1:8080      (start one: himari serve runs/demo/bundle)
"""

import sys

from himari_rl.client import ClosedBar, Layer3, Signal
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.features.signals import with_signals


def main(url: str, symbol: str = "BTC-SYNTHETIC", decisions: int = 5) -> None:
    """Sizes the last hours of an artificial market."""
    market = with_signals(synthetic_bars(1000, seed=0))  # your own closed bars and signals come here
    assert market.signals is not None
    bars = [ClosedBar(*row) for row in zip(market.timestamp.tolist(), market.open, market.close, strict=True)]
    with Layer3(url, (symbol,), equity_usd=10_000.0) as layer3:
        layer3.begin(bars[:-decisions])
        for row in range(len(bars) - decisions, len(bars)):
            said = market.signals[slice(row, row + 1)]
            signal = Signal(said.action[0], said.confidence[0], said.tier[0], said.cascade_risk[0])
            sized = layer3.decide(bars[row], signal)
            print(f"x{sized.multiplier:.3f}  {sized.size_usd[symbol]:+9.2f} USD  {sized.cause or sized.version}")


if __name__ == "__main__":
    main(*sys.argv[1:])
