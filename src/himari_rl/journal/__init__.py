"""The journal of decisions: each durable before anybody acts on it, once for a bar, chained, exported to Parquet."""
