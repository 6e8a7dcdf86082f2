"""What a bundle is worth: backtest, statistics, certification, the verdict."""
