"""Normalisation, tokenizers, and greedy CTC."""
