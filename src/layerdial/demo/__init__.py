"""From nothing to four models, compared at every depth."""
