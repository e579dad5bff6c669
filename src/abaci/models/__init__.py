"""What models are: specs, the operations they are made of, the decoder. Knows no file reader and no arithmetic."""
