"""Units f of a network."""
