"""Why, and what to do: see README.md."""
