"""Lowering: decisions to places, edits and programs in the model's own Python, and the planning loop around them."""
