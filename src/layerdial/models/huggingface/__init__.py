"""CTC checkpoints of transformers as dynamic networks."""
