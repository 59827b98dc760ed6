"""From collections to one data folder."""
