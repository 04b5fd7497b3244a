"""Reports of training runs and predictions: pages, plots, sheets, trackers."""
