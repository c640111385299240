"""Transcription of many files: a manifest in, rows out, on all CPUs of a machine."""
