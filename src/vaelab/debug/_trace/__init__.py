"""A call as a jaxpr: see README.md."""
