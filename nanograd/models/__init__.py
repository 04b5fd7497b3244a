"""Trained models: model directories, model cards, ONNX export."""
