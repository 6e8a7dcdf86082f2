"""Who decides: networks, distributions and the PPO agents."""
