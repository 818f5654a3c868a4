"""A world where sites, networks, clocks and workers fail by a seed; machine and register are the shipped ones."""
