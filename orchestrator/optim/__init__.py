"""Optimizers, learning-rate schedules and scaling rules."""
