"""From starting weights to trained weights: stored features, the head, the layers below it, resuming."""
