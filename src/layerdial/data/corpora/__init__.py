"""Corpora as manifests: LibriSpeech, TED-LIUM 3, a folder of one's own."""
