"""A tiny, randomly initialised instance of every transformers model type."""
