"""Audio files, and the features made of samples. Imports numpy, soundfile and ONNX Runtime alone."""
