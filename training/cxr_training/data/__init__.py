"""Films with labels, boxes and splits: data folders, the collections they are made from, and synthetic films."""
