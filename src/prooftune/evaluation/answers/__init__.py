"""Metrics of answers: overlap with references, similarity in meaning, and citations."""
