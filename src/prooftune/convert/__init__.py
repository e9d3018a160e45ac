"""Llama checkpoints as Meta publishes them -> model folders in the Hugging Face layout."""
