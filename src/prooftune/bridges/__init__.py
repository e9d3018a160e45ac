"""Configs of other fine-tuning tools: read into recipes, and written from them."""
