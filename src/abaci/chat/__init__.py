"""Where text and tokens meet: messages become prompts, token events become text. Knows nothing of engines."""
