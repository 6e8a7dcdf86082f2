"""How an agent improves: rollouts, the PPO update, checkpoints and export."""
