"""What a training run is asked for, besides its agent and its environment. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from himari_rl.config import require_ranges, require_seeds


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run on one history."""

    num_episodes: int = 1000
    """Training budget of each seed, in episodes of environment.episode_bars (500) bars."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One agent each; the bundle is their ensemble. One seed's verdict is a coin toss: seed 0 alone called BTC "better,
    98.7 % sure", five together do not. Same seed, same weights, bit for bit."""
    test_fraction: float = 0.2
    """Last share of the bars, above 0 and below 1, which training never sees."""
    save_interval: int = 100
    """Episodes between two checkpoints."""
    device: str = "auto"
    """Where it is trained: auto, cpu or cuda."""

    def __post_init__(self) -> None:
        require_ranges(self, {"num_episodes": (1, 10**9), "save_interval": (1, 10**9)})
        require_seeds(self.seeds)
