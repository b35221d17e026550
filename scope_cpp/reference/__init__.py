"""Random models and an independent forward pass to check the engine against.

Nothing here is needed to generate text: ``scope doctor`` and the tests use it. It imports NumPy
and gguf only, so that it cannot share a mistake with the code it checks.
"""
