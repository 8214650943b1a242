"""Training: the codistillation model, its callbacks, and the experiment that puts everything together."""
