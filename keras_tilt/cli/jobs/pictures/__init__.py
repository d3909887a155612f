"""Pictures of units: their chains, and what networks call the images."""
