"""Names of metrics, in one place."""
