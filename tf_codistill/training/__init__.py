"""Algorithm 1 under Keras: the model, its losses and meters, and what resumes it."""
