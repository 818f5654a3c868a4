"""A world in which sites, networks, clocks and failover workers fail by a seed; the machine and the register are real."""
