"""Evaluate a bundle on new labelled data: metrics with intervals, and drift since its study."""
