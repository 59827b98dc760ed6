"""The parts of `scripts.edge`: nginx before the servers, its configuration, keys and certificate."""
