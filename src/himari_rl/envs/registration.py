"""Our environments by gymnasium's names, so that `gymnasium.make(id, bars=bars)` makes them.

    import gymnasium
    import himari_rl                                  # registers, because gymnasium is there

    env = gymnasium.make("himari/Trading-v0", bars=bars)
    env = gymnasium.make("himari/MultiAssetTrading-v0", panel=panel)

gymnasium has no entry points for plugins, and `import himari_rl` must not pull it in: the names are registered when
gymnasium is imported before us, and at the latest when an environment of ours is.
"""

from __future__ import annotations

IDS = {
    "himari/Trading-v0": "himari_rl.envs.trading_env:TradingEnv",
    "himari/MultiAssetTrading-v0": "himari_rl.envs.multi_asset_env:MultiAssetTradingEnv",
}


def register_environments() -> None:
    """Registers the ids that gymnasium does not know yet; a second call changes nothing.

    No `max_episode_steps`: an episode's length is the config's `episode_bars`, and the environment truncates itself. A
    caller's own max_episode_steps adds gymnasium's TimeLimit, which truncates earlier.
    """
    import gymnasium

    for name, entry_point in IDS.items():
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point=entry_point)
