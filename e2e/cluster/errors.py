"""The one exception of this package: what is wrong and what cures it, in one line."""


class ClusterError(Exception):
    """Something the user can act on; `str(error)` is one line that ends with the cure."""
