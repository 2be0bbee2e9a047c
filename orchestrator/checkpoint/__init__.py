"""Distributed save and load, manifests and retention."""
