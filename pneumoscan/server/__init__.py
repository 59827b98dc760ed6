"""The parts of `pneumoscan serve`: one TorchServe, from the machine's capacity to a clean stop."""
