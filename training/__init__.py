"""Training: one loop for both stages, with its data, state, validation, logs and ranks."""
