"""Parsers of TensorRT 5 to 8 for models of other frameworks."""
