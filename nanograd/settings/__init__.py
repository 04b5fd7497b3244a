"""Settings of each command, their presets and their flags."""
