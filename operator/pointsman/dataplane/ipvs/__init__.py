"""The mode `ipvs`: a virtual server for each frontend, a real server for each backend.

Belongs here: everything that knows IPVS. Must not be here: Services, policies.
"""

from pointsman.dataplane.ipvs.dataplane import IpvsDataplane
from pointsman.dataplane.ipvs.render import render

__all__ = ["IpvsDataplane", "render"]
