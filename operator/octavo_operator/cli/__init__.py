"""`kubectl octavo status | why | render`: what the ModelServers of a cluster do, for people at a terminal.

    command.py    arguments -> what to ask kubectl for -> a view -> the terminal
    kubectl.py    the only way to the cluster: the user's own kubectl, so contexts, logins and proxies are the user's
    listing.py, detail.py, why.py    objects as kubectl prints them -> rich renderables; no I/O, `now` is an argument
    words.py, chart.py               ages, states, safe text; bars and steps made of characters

It needs the extra `cli` (rich); the operator's image does not have it.
"""
