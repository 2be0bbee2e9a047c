"""The elementwise work of optimizer steps, once for each way to run it."""
