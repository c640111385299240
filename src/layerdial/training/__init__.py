"""Drop policies, the reference model, and the training loop."""
