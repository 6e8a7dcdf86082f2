"""Bars become the sixteen numbers: causal, numpy only."""
