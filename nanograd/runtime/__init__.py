"""Storage, process settings, random numbers and events."""
