"""The stages of preparation, each a list of tasks."""
