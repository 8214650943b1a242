"""How one group does SGD, and how its workers decide together."""
