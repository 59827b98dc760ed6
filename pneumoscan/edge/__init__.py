"""The parts of `pneumoscan edge`: nginx before the servers, its configuration, keys and certificate."""
