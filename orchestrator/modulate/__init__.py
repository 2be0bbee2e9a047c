"""What changes a recipe's model, its loss, or the gradients that come of them."""
