"""What scripts share: networks, units and noise by the names of flags."""
