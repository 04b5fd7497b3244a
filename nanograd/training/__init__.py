"""The synchronous round: workers, the parameter server, the loop; no Ray."""
