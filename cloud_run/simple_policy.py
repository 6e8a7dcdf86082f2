"""The smallest use of a policy: load a bundle, decide once. No server, no torch.

python cloud_run/simple_policy.py runs/mine/bundle
"""

from __future__ import annotations

import sys

from himari_rl import load_policy
from himari_rl.errors import HimariError

STATE = [
    0.82,  # 1 signal confidence
    *(0, 0, 1),  # 2-4 action: SELL, HOLD, BUY
    *(0, 1, 0, 0),  # 5-8 tier: T1, T2, T3, T4
    0.25,  # 9 position size, of the largest the limits allow
    1,  # 10 side: -1 short, 0 flat, 1 long
    0.04,  # 11 unrealised profit, half of equity = 1
    0.012,  # 12 momentum of 1 hour, 10 % = 1
    0.03,  # 13 momentum of 4 hours, 20 % = 1
    0.09,  # 14 volatility of a bar, 10 % = 1
    0.6,  # 15 share of the last ten trades that won
    0.05,  # 16 cascade risk
]


def main(argv: list[str]) -> int:
    """Prints how much of the base position this policy would hold in the state above."""
    if len(argv) != 1:
        sys.stderr.write("usage: python cloud_run/simple_policy.py BUNDLE\n")
        return 2
    try:
        decision = load_policy(argv[0]).decide(STATE)
    except HimariError as error:
        sys.stderr.write(f"simple_policy: {error}\n")
        return error.exit_code
    sys.stdout.write(f"multiplier {decision.multipliers[0]:.3f}, confidence {decision.confidence:.3f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
