"""From torch to files that devices run."""
