"""Long work in tasks that commit files: stages, who runs them, progress, and a place for damaged input."""
