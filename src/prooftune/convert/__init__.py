"""Conversion of Meta's Llama checkpoints to model folders in the Hugging Face layout."""
