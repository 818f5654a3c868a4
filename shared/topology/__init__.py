"""Which site is primary, who the members are, and under which epoch. Nothing else in Holdfast names the primary."""

from shared.topology.copies import copy_sites, copying
from shared.topology.current import Topology, current, follow, guard, memory, memory_path, register, site_of, sites_of
from shared.topology.errors import MoveRefused, NoMajority, NotAllAgree, StaleEpoch, TooFarBehind, TopologyError
from shared.topology.state import Epoch

__all__ = [
    "Epoch",
    "MoveRefused",
    "NoMajority",
    "NotAllAgree",
    "StaleEpoch",
    "TooFarBehind",
    "Topology",
    "TopologyError",
    "copy_sites",
    "copying",
    "current",
    "follow",
    "guard",
    "memory",
    "memory_path",
    "register",
    "site_of",
    "sites_of",
]
