"""How a run fares, read from its files alone: by `launch`, in a terminal, as JSON and as a page."""
