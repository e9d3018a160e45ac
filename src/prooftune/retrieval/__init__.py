"""Retrieval: documents -> parts -> chunks -> index -> search, and retrieval metrics."""
