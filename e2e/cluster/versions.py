"""The versions of everything that is built; the cache folders are named after them.

To move one: edit it here, then make `gomodules/<module>/` agree (`GoModule.refresh` in `build.py`). KEDA,
LeaderWorkerSet, CoreDNS and containerd have their hashes in `keda.py`, `lws.py`, `coredns.py` and `containerd_v2.py`
instead.
"""

KUBERNETES = "v1.36.3"
HELM = "v4.3.1"
KWOK = "v0.8.0"
KEDA = "v2.20.2"
LWS = "v0.9.0"
COREDNS = "v1.15.0"
CONTAINERD = "v2.2.9"
PAUSE = "1"
