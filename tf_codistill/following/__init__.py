"""A run evaluated beside its training: the newest snapshots of its groups, scored in rounds."""
