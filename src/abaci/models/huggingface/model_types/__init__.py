"""One module per published `model_type`, found by its name, each with a `MAPPING`."""
