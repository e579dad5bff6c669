"""Tool dialects: one module each, with a `DIALECT`, found by being here."""
