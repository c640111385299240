"""Models that have a name: what is known of each, where it lies, and how it is fetched."""
