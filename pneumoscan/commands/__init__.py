"""The commands of `pneumoscan`, a module each: what it takes, one call, the exit status."""
