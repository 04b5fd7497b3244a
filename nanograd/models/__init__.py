"""Trained models: saved, loaded, described, exported."""
