"""The ONNX parser: Lamina's importer filling a network."""
