"""Makes model files: quantised from others, with their loss measured, or of a given shape with random values."""
