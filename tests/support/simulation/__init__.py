"""A world where sites, networks, clocks and workers fail by a seed; the machine and the register are the shipped ones."""
