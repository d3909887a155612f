"""Commands, and what they share: flags, and networks, units and noise by name."""
