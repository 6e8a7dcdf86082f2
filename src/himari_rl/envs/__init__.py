"""The ledger wired to time, batched, behind gymnasium's faces."""
