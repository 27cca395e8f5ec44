"""From batches to a trained state, and what a network makes of a whole set."""
