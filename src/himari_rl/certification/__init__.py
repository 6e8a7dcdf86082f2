"""Markets whose optimum is known: what an agent can learn is proved here before anybody looks at a real price.

markets.py      the generators M1 to M7, each with its parameters
observe.py      a simulated market as the sixteen numbers, and as bars
solvers/        the best possible policy of each
references.py   policies that know nothing, and simple rules
grading.py      grading under a known law, never by luck
thresholds.py   what a certificate asks; suites.py: which markets, for which agent
attempts.py     one seed on one market: trains, exports, loads and grades it
certificates.py all seeds of a market against its threshold
certify.py      every market with every seed, fanned out
__main__.py     python -m himari_rl.certification prints every optimum
"""
