"""Export of torch models to files that devices run."""
