"""Files, rows, progress, jobs: helpers without a subject of speech."""
