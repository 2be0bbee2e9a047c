"""Batch-size controllers."""
