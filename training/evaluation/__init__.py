"""Measures of the trained models: answers, calibration, bits per byte."""
