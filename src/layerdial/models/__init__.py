"""Dynamic networks, their costs, and the model folder on disk."""
