"""Where the model lives and how a step is taken on it."""
