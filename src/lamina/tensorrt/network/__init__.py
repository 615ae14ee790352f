"""Networks: tensors, layers and what holds them."""
