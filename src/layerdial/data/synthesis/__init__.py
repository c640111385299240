"""Corpora of synthetic speech."""
