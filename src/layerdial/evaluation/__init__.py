"""Error counts, ladders, sweeps, and the tables and pictures made of them."""
