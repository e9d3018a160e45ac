"""Bundles behind HTTP: an API of our own, OpenAI's, and a page to try them."""
