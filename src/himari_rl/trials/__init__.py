"""What was tried, and on which returns: the trial ledger, price-path fingerprints, pre-registration."""
