"""What is seen of the sites: probes, and the events that tell of them."""
