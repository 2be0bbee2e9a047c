"""What changes how a micro-batch's gradient is computed."""
