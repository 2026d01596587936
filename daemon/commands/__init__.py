"""The commands, one file for each family; each is imported only when it is asked for."""
