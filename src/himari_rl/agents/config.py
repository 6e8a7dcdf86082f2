"""What an agent is and how it learns: one frozen config a kind. Torch-free, so that a setting can be read anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

from himari_rl.config import require_ranges
from himari_rl.errors import ConfigError
from himari_rl.features.contract import state_dim
from himari_rl.policy.manifest import GAP_RULES

HEADS = ("band", "centre", "squash")
DEFAULT_RECIPE, PPO_RECIPE = "default", "ppo"
RECIPES: dict[str, Mapping[str, Any]] = {
    DEFAULT_RECIPE: {},
    PPO_RECIPE: {
        "analytic_gradient_fraction": 0.0,
        "advantage": "counterfactual",
        "clip_coef": 2.0,  # a clip of .2 lets a mean move by .2 deviations a rollout: from scratch that reaches nowhere
        "epochs": 1,
        "gamma": 1.0,  # with .95 a cost is paid at once and repaid over 20 bars only: R1 traded half of what it should
        "initial_std": 0.1,
        "final_std": 0.03,
        "relative_std": True,
    },
}
"""What each recipe makes of the settings that nobody changed, as measured in docs/decisions/LOG.md."""

_COUNT, _FRACTION, _WEIGHT = (1, 10**9), (0.0, 1.0), (0.0, 1000.0)
_RANGES = {  # NaN is in none
    **dict.fromkeys(("state_dim", "action_dim", "hidden_dim"), _COUNT),
    **dict.fromkeys(("num_envs", "num_steps", "minibatch"), (0, 10**9)),
    "hidden_layers": (0, 100),
    "trust": (1e-6, 100.0),
    "plan_rollouts": (0, 10**9),
    "growth": (0.0, 1000.0),
    "learning_rate": (0.0, 10.0),
    "epochs": _COUNT,
    **dict.fromkeys(
        (
            "analytic_gradient_fraction",
            "final_learning_rate",
            "gamma",
            "gae_lambda",
            "random_position_fraction",
            "weight_average_fraction",
        ),
        _FRACTION,
    ),
    **dict.fromkeys(("value_coefficient", "range_penalty", "gross_penalty", "weight_decay"), _WEIGHT),
    **dict.fromkeys(("initial_std", "final_std"), (1e-12, 10.0)),
    **dict.fromkeys(("clip_coef", "max_grad_norm", "input_clip"), (1e-9, 1e9)),
}


class StepSettings(NamedTuple):
    """Sizes of a rollout and of one gradient step, and Adam's step at the start."""

    num_envs: int
    num_steps: int
    minibatch: int
    learning_rate: float


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """Network and learning of one agent. Every learning ingredient is measured in docs/decisions/LOG.md.

    >>> PPOConfig(hidden_dim=128).hidden
    (128, 128)
    """

    # the sign of a return is noise: many bars a step
    raw_batch: ClassVar[StepSettings] = StepSettings(500, 50, 12_500, 5e-3)
    # deterministic: large steps do no harm; in 100 bars an exit that repays its cost over 190 looks unpaid (R1)
    believed_batch: ClassVar[StepSettings] = StepSettings(16, 250, 4_000, 1e-2)

    drift_net: ClassVar[bool] = False  # an LSTM's out-of-fold drift is one more column of the evidence

    recipe: str = DEFAULT_RECIPE
    """How it learns: default (the analytic gradient, PPO for the last tenth) or ppo (PPO from the first rollout to the
    last: wide clip, counterfactual advantage, one epoch). A setting that was changed by hand stays as it is."""
    beliefs: bool = True
    """Trains on what the history lets one believe (docs/beliefs.md), anchored at 15 % volatility; --no-beliefs trains
    on raw returns. Certification's known markets are learned from raw returns either way."""
    trust: float = 1.5
    """f of the beliefs: Layer 2's side is taken to be worth so many times what 15 % volatility asks for."""

    state_dim: int = 16
    """Features of an observation."""
    action_dim: int = 1
    """Assets, one multiplier each."""
    hidden_dim: int = 32
    """Units of each hidden layer."""
    hidden_layers: int = 2
    """tanh layers of the actor and of the critic."""
    head: str = "band"
    """band, centre or squash: see agents/distributions.py."""
    account_inputs: bool = False
    """True also feeds the account's own features to the net. The band reads the held position either way."""
    anchored: bool = False
    """The band is a multiple of the one-liner's, and the net also reads what the beliefs say; a job sets it."""
    input_clip: float = 5.0
    """Normalised features are clipped to this many standard deviations."""

    num_envs: int = 0
    """Environments stepped together (N); 0 is what fits: 16 with beliefs, 500 on raw returns (LSTM 320)."""
    num_steps: int = 0
    """Bars of one rollout (T); divides the episode. 0 is what fits: 250 with beliefs, 50 on raw returns."""
    analytic_gradient_fraction: float = 0.9
    """First fraction of the rollouts that learns by the analytic gradient through the ledger; the rest is PPO."""
    learning_rate: float = 0.0
    """Adam's step at the start; 0 is what fits: .01 with beliefs, .005 on raw returns (LSTM .003)."""
    final_learning_rate: float = 0.02
    """Fraction of learning_rate left at the end of the linear decay."""
    minibatch: int = 0
    """Bars of one gradient step; 0 is what fits: 4000 with beliefs, 12500 on raw returns (LSTM 8000)."""
    epochs: int = 2
    """Passes over each PPO rollout."""
    gamma: float = 0.95
    """Discount per bar."""
    gae_lambda: float = 0.8
    """Generalised advantage estimation (Schulman et al. 2016)."""
    advantage: str = "counterfactual"
    """gae, or counterfactual: r(a) - r(mean) on the same bar plus the slope of future reward in the held position."""
    control_variate: bool = True
    """gae only: subtracts the mean action's own reward on the same bar, exact because the market does not react."""
    clip_coef: float = 0.2
    """PPO's clip of the probability ratio."""
    value_coefficient: float = 0.5
    """Weight of the critic's loss."""
    max_grad_norm: float = 1.0
    """Gradient norm clip."""
    initial_std: float = 0.05
    """Standard deviation of the action around its mean, multiplier units, at the first PPO rollout."""
    final_std: float = 0.02
    """The same at the last rollout (geometric decay)."""
    relative_std: bool = False
    """Where the band is anchored the deviation is counted in anchors instead of multiplier units: .1 is a tenth of the
    one-liner's position, however small that is."""
    random_position_fraction: float = 1.0
    """Fraction of the accounts put at a random position before each rollout, so that both band edges are visited."""
    range_penalty: float = 0.01
    """Penalty on bands that lie wholly outside [0, 2], per multiplier unit, in units of the reward's deviation."""
    gross_penalty: float = 0.1
    """Penalty on gross exposure above the cap, in the same units: the cap scales all weights alike, so that beyond it
    no reward says how much to hold."""
    weight_average_fraction: float = 0.3
    """Last fraction of the rollouts whose weights are averaged into the exported ones."""
    weight_decay: float = 0.0
    """AdamW's decay."""
    plan_rollouts: int = 40
    """With beliefs: rollouts planned at first. The plan is doubled, up to the budget, as long as the believed reward
    still grows; 0 plans the whole budget, as raw returns do."""
    growth: float = 0.02
    """Growth over the middle third of a plan for which it is doubled, in units of the mean size of that reward."""

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise ConfigError(f"head {self.head!r}", f"one of {', '.join(HEADS)}")
        if self.advantage not in ("gae", "counterfactual"):
            raise ConfigError(f"advantage {self.advantage!r}", "gae or counterfactual")
        if self.recipe not in RECIPES:
            raise ConfigError(f"recipe {self.recipe!r}", " or ".join(RECIPES))
        require_ranges(self, _RANGES)
        fraction = self.analytic_gradient_fraction
        if self.recipe == PPO_RECIPE and fraction not in (0.0, _default(self, "analytic_gradient_fraction")):
            raise ConfigError(
                f"analytic_gradient_fraction {fraction} with the recipe {PPO_RECIPE}",
                "none of it: that recipe is PPO from the first rollout to the last",
                f"leave it out, or take the recipe {DEFAULT_RECIPE}",
            )

    def sized(self, believed: bool | None = None) -> Self:
        """The same config with what was left open filled in: sizes, and what the recipe makes of unchanged settings.

        Args:
            believed: whether it trains on beliefs; None asks `anchored`.
        """
        fits = self.believed_batch if (self.anchored if believed is None else believed) else self.raw_batch
        recipe = {
            name: value for name, value in RECIPES[self.recipe].items() if getattr(self, name) == _default(self, name)
        }
        if all(getattr(self, name) for name in fits._fields) and not recipe:
            return self
        return replace(
            self,
            **recipe,
            **{name: getattr(self, name) or value for name, value in fits._asdict().items()},
        )

    def rollouts(self, bars: int) -> int:
        """How many rollouts of num_envs x num_steps bars a budget is: whole ones, rounded up, at least one."""
        return max(1, -(-bars // (self.num_envs * self.num_steps)))

    @property
    def inputs(self) -> int:
        """Numbers that the net reads: the state, and per asset anchor, slow volatility and believed drift."""
        return self.state_dim + (3 * self.action_dim if self.anchored else 0)

    @property
    def hidden(self) -> tuple[int, ...]:
        return (self.hidden_dim,) * self.hidden_layers


def _default(config: PPOConfig, name: str) -> Any:
    """What a field of this kind's config is if nobody says otherwise."""
    return type(config).__dataclass_fields__[name].default


@dataclass(frozen=True, kw_only=True)
class LSTMPPOConfig(PPOConfig):
    """The agent with memory: with beliefs a base agent whose evidence includes a drift net (training/drift_net.py), on
    raw returns a recurrent PPO. There `num_steps` is also the length of back-propagation through time.

    >>> LSTMPPOConfig(lstm_hidden_dim=32).gap_rule
    'reset'
    """

    # a minibatch is whole environments, never part of a sequence
    raw_batch: ClassVar[StepSettings] = StepSettings(320, 50, 8_000, 3e-3)

    drift_net: ClassVar[bool] = True
    recurrent_form: ClassVar[tuple[str, ...]] = ("hidden_dim", "hidden_layers", "epochs")

    beliefs: bool = True
    """Trains on what the history lets one believe (docs/beliefs.md), a drift net's column included; --no-beliefs trains
    the recurrent PPO on raw returns, as certification's known markets do either way."""
    lstm_hidden_dim: int = 64
    """Cells of each LSTM layer (H) of the recurrent PPO."""
    lstm_num_layers: int = 2
    """LSTM layers of the recurrent PPO."""
    hidden_dim: int = 64
    """Units of each tanh layer after the LSTM, and of the critic's; with beliefs 64 becomes the base agent's 32."""
    hidden_layers: int = 1
    """tanh layers between the LSTM and the head, and of the critic; with beliefs 1 becomes the base agent's 2."""
    analytic_gradient_fraction: float = 0.9
    """First fraction of the rollouts that learns by the analytic gradient, back through time; the rest is PPO."""
    epochs: int = 1
    """Passes over each PPO rollout; more of them leave the stored states behind (LOG.md); with beliefs 1 becomes 2."""
    gap_rule: str = GAP_RULES[0]
    """What a server does with the memory of a session that missed bars: reset, or advance (with beliefs always)."""

    def sized(self, believed: bool | None = None) -> Self:
        """As the base agent's; with beliefs what was left at the recurrent form's default is the base agent's too."""
        found = super().sized(believed)
        if not (self.anchored if believed is None else believed):
            return found
        # what the recipe has filled in is no default that was left
        left = [name for name in self.recurrent_form if getattr(self, name) == getattr(LSTMPPOConfig, name)]
        left = [name for name in left if name not in RECIPES[self.recipe]]
        return replace(found, **{name: getattr(PPOConfig, name) for name in left})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lstm_hidden_dim < 1 or self.lstm_num_layers < 1:
            raise ConfigError(
                f"{self.lstm_num_layers} LSTM layers of {self.lstm_hidden_dim}", "at least one of each", "or train base"
            )
        if self.gap_rule not in GAP_RULES:
            raise ConfigError(f"gap_rule {self.gap_rule!r}", " or ".join(GAP_RULES))
        if self.account_inputs:
            raise ConfigError(
                "account_inputs with an LSTM",
                "a network that reads the market only (the band reads the held position)",
                "leave account_inputs off: it would force a Python loop over time",
            )


@dataclass(frozen=True, kw_only=True)
class MultiPPOConfig(PPOConfig):
    """The base agent's config for a portfolio. A job takes both dimensions from its symbols.

    >>> MultiPPOConfig().state_dim
    52
    """

    state_dim: int = state_dim(3)
    """52 for three assets: 16 each, their three correlations and the Herfindahl index."""
    action_dim: int = 3
    """Assets, one multiplier each, 2 to 100."""
    analytic_gradient_fraction: float = 0.9
    """With 0.6 the exploration of three multipliers at once costs more than it finds (M5b, one seed: .905, .939)."""
    weight_average_fraction: float = 0.5
    """Longer than the base agent's: three weights wander more (M5, two seeds: .975 and .983 with .3, .977 and .987)."""
    first_gross: float = 0.75
    """Gross exposure of a fresh agent in cash when Layer 2 buys everything: outside the cap no reward tells the assets
    apart, and on the way back some fall to 0 (LOG.md)."""
    first_half: float = 0.1
    """Half-width of a fresh band, multiplier units: a wide one's lower edge sinks below 0, where it has no gradient."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.first_gross > 0.0 and self.first_half > 0.0):
            raise ConfigError(f"first_gross {self.first_gross} and first_half {self.first_half}", "both above 0")


CONFIGS: dict[str, type[PPOConfig]] = {"base": PPOConfig, "lstm": LSTMPPOConfig, "multi": MultiPPOConfig}


def of_reward(agent: PPOConfig, own: bool) -> PPOConfig:
    """The agent's config for a reward of somebody's own: PPO alone, on raw returns; any other stays as it is.

    What is believed of the drift is worth nothing under a reward that nobody here knows, and it need have no slope: the
    advantage is estimated from what was paid (GAE), not from the ledger's derivative.
    """
    return replace(agent, recipe=PPO_RECIPE, beliefs=False, advantage="gae") if own else agent


def config_type(kind: str) -> type[PPOConfig]:
    """The config of a kind.

    Raises:
        ConfigError: no such kind.
    """
    if kind not in CONFIGS:
        raise ConfigError(f"kind {kind!r}", f"one of {', '.join(CONFIGS)}")
    return CONFIGS[kind]
