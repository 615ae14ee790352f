"""What programs for TensorRT import beside it, for machines without a GPU."""
