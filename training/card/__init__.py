"""The parts of `training.model_card`."""
