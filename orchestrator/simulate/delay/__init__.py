"""Old gradients: which pushes an asynchronous training takes at which delay, and how far momentum bears them."""
