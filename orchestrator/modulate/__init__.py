"""What changes a recipe's model, its loss, the samples of the steps ahead, or the gradients that come of them."""
