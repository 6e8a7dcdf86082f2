"""The decisions of a policy server; http/ puts them behind a port."""
