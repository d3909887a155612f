"""References q, as transports of white noise."""
