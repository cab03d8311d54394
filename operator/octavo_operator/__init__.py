"""Octavo's operator: one `ModelServer` in, serving pods out."""
