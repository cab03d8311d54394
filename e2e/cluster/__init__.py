from cluster.control_plane import ControlPlane
from cluster.errors import ClusterError
from cluster.layout import Layout, paths

__all__ = ["ClusterError", "ControlPlane", "Layout", "paths"]
