"""What makes something of the samples of the steps ahead while a step is computed."""
