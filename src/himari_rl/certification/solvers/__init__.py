"""The best possible policy of each market: value iteration, the belief's dynamic programme, convex optimisation."""
