"""A social feed that works without its server: see README.md."""
