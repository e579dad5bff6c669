"""Measures this engine and others on the same file, in the same minutes, each in a process of its own."""
