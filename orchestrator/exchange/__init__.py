"""How many workers' gradients become one update."""
