"""A real job under random faults, and what has to hold of it in the end."""
