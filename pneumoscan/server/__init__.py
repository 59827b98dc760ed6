"""The parts of `scripts.serve`: one TorchServe, from the machine's capacity to a clean stop."""
