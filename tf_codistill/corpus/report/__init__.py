"""What became of the documents, for people to read."""
