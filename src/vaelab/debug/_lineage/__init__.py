"""From events to a story: see README.md."""
