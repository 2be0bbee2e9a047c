"""The training loop, its assembly and the entry of a rank. Never imports Ray."""
