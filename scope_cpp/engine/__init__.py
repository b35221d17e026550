"""The engine: model, context, bounded cache, sampling and text."""
