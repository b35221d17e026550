"""The whole way on a real instruct model, SmolLM2-135M-Instruct."""
