"""What recipes and networks are made of, as strict frozen models."""
