"""Retrieval: documents -> parts -> chunks -> index -> search, and how good the search is."""
