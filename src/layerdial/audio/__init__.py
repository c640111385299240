"""Samples in, features out. Needs numpy, soundfile and ONNX Runtime alone."""
