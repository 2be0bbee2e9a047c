"""What gives a recipe's model other layers."""
