"""What is learned: data, model, losses and metrics of a task, behind one protocol, `base`."""
