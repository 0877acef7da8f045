"""What models are measured by: answers, calibration, bits per byte."""
