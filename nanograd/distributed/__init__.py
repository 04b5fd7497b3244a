"""The only room with Ray in it."""
