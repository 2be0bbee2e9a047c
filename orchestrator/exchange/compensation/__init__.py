"""What is done about the delay of gradients: methods that asynchronous training is compared with."""
