"""Which site is primary, who the members are, and under which epoch. Nothing else in Holdfast names the primary."""

from shared.topology.current import Epoch, StaleEpoch, Topology, current, guard, site_of

__all__ = ["Epoch", "StaleEpoch", "Topology", "current", "guard", "site_of"]
