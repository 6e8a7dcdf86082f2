"""Does a supplied column know the future? A column of Layer 2 is data here, so no code of ours can prove it causal.

target.py    the return that a decision earns, less what past bars explain; normal scores
stop.py      sudden stop: it predicts the next bars and nothing one bar later
news.py      what is new in the column beside the returns of the next week: news share, news spike, volatility spike
calendar.py  it knows the rest of the candle that it stands in (4 h, 8 h, day, week), whatever the candle's phase
bins.py      some of its values know the next bar, as repainted highs and lows do
report.py    all of it for a column, with a cause and a cure for each alarm
"""

from himari_rl.data.leaks.report import LeakReport, doubtful_columns, examine, suspected_leaks
from himari_rl.data.leaks.target import normal_scores, unexplained_return

__all__ = [
    "LeakReport",
    "doubtful_columns",
    "examine",
    "normal_scores",
    "suspected_leaks",
    "unexplained_return",
]
