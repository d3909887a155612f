"""Convolutional feature masking: objects and stuff from one pass of a network."""
