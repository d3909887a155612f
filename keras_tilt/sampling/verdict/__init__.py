"""Have the chains forgotten where they started, and what to do if they have not."""
