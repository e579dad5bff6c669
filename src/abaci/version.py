"""The version, alone in the lowest layer so that reading it imports nothing else."""

__version__ = "0.1.0"
