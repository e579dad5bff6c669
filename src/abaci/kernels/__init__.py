"""Whatever computes: the step's arrays, the native program, the numpy reference. Knows no files, requests or text."""
