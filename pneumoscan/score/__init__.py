"""Films scored in process, without a server: the list, the workers, one row a film, parts that survive a kill."""
