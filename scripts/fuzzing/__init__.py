"""Damaged GGUF files, made by the thousand, and what the command does with them."""
