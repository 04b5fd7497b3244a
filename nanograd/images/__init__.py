"""Images from files: input files, columns, rows, labels, and writers of tables."""
