"""Training data on its way into a model: who reads what, and batches as a pure function of the step."""
