"""Corpora as manifests: LibriSpeech, TED-LIUM 3, folders of the user's own recordings."""
