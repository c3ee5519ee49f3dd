"""A call run again, one equation at a time: see README.md."""
