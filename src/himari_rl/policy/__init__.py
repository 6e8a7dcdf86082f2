"""What ships: the bundle, its runtime, the ledger and the risk limits. No torch."""
