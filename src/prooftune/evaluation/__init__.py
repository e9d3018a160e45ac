"""Metrics, intervals, paired tests, calibration and the verdict."""
