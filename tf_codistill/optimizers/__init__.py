"""Optimizers that Keras has not, and rates for large batches."""
