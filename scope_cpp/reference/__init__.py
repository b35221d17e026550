"""What the engine is measured and checked with: a task and its trained model, random models.

`task`, `vocabulary` and `shipped` are the reference task and the model that comes with the
package. `tiny_model` and `numpy_llama` are random models and an independent forward pass, for
``scope doctor`` and the tests. Nothing here imports the engine, so that it cannot share a mistake
with the code it checks.
"""
