"""The test cases that the onnx package generates and ships."""
