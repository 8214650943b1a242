"""Long work in tasks that commit files: stages, who runs them, progress, what was written, damaged input."""
