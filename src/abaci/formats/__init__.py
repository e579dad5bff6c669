"""Files that hold models: checkpoints, tokenizers, chat templates. Knows bytes and names, no architecture."""
