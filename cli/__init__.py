"""The ``scope`` command: reads flags, calls the engine, prints. No logic of its own."""

import os

# NumPy multiplies little between llama.cpp's steps: threads of its own only get in their way
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
