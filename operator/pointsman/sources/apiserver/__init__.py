"""The API server as a source of objects."""
