"""What scripts/soak_serve.py is made of."""
