"""The ``scope`` command: reads flags, calls the engine, prints. No logic of its own."""
