"""Paged-attention kernels: two verbs behind one protocol (see `interface`), chosen by `select.select_backend`."""
