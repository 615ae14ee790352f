"""INT8 calibration: ranges of tensors from data."""
