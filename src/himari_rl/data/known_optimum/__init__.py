"""Markets whose optimum is known: what an agent can learn is proved here before anybody looks at a real price.

markets.py    the generators M1 to M7, each with its parameters
observe.py    a simulated market as the sixteen numbers, and as bars
dynamic.py    relative value iteration with costs and drift: M1, M2, M4
belief.py     the Bayes filter and the dynamic programme on it: M3
portfolio.py  convex optimisation: M5
optimum.py    one face over the solvers, cached by parameters
__main__.py   python -m himari_rl.data.known_optimum prints every optimum
"""
