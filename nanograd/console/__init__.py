"""Progress and results of a command, for people and for logs."""
