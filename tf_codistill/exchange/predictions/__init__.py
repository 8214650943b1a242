"""Predictions that travel: in which form, as which bytes, by what, and how long they are waited for."""
