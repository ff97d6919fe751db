"""Training data: samples joined with their texts, their order, and batches of them."""
