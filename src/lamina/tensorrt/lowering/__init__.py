"""From networks of layers to graphs of the IR."""
