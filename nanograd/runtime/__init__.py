"""Files, processes, random numbers and events: what every package builds on."""
