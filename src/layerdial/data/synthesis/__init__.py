"""Corpora read aloud by synthetic voices."""
