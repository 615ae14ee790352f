"""Measures Lamina beside onnxruntime and OpenVINO; results go to ``benchmarks/results`` as JSON."""
