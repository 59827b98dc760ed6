"""Does a model look at the lungs at all? The parts of `training.audit`."""
