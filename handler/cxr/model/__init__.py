"""A trained model: its spec, the network, what goes into it, the map that is read off it, and parity of its engines."""
