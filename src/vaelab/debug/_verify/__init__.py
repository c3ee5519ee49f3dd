"""Advice is tried before it is given: see README.md."""
