"""Sees that a site is gone, and has another one take its place."""
