"""Metrics, thresholds and scores of studies in which a text has any number of labels."""
