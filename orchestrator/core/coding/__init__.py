"""Gradient codes: which worker computes what, when a round may close, how a sum is decoded. NumPy only, no torch."""
