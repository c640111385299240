"""Parts that models are built from: subsampling, attention, the Conformer block, losses."""
