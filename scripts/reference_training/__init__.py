"""The parts of scripts/train_reference.py: data, model, training, export, evaluation."""
