"""Corpora named by lists of their paragraphs."""
