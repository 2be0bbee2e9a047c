"""What changes gradients between their sum and the optimizer's step."""
