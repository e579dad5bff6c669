"""The engine: scheduler, paged KV cache, runner and the thread that drives them. Tokens only; it knows no text."""
