"""Predictions and simulations in NumPy: what a training would do, without a cluster and without torch."""
