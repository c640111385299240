"""The demo: four models trained from synthetic speech, compared at every depth."""
