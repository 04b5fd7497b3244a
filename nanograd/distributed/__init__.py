"""Workers, parameter server and batch parts on Ray; the only package that imports it."""
