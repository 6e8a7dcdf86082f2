"""What a certification is asked for, besides its agent. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from himari_rl.config import require_seeds
from himari_rl.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class CertifyConfig:
    """One certification on markets whose optimum is known."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds per market; the median is judged."""
    num_episodes: int | None = None
    """Training budget, in episodes of 500 bars (default: the kind's own, 8000 and for multi 12000, M1 three times)."""
    device: str = "auto"
    """Where it is trained: auto, cpu or cuda."""

    def __post_init__(self) -> None:
        require_seeds(self.seeds)
        if self.num_episodes is not None and self.num_episodes < 1:
            raise ConfigError(f"num_episodes {self.num_episodes}", "at least 1")
