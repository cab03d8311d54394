"""Only our iptables rules are taken away, whatever else is in the tables."""

from cluster.firewall import removal_script

OTHERS = """\
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
COMMIT
"""

OURS = r"""*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:CNI-DN-aaaa - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-X - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A POSTROUTING -s 10.222.0.0/24 ! -o octavo0 -m comment --comment octavo -j MASQUERADE
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A CNI-DN-aaaa -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.222.0.9:80
-A CNI-HOSTPORT-DNAT -m comment --comment "dnat name: \"octavo\" id: \"77\"" -j CNI-DN-aaaa
-A KUBE-SERVICES -d 10.222.128.1/32 -j KUBE-SVC-X
COMMIT
"""


def test_nothing_is_touched_where_nothing_is_ours():
    assert removal_script(OTHERS) == ""


def test_no_tables_at_all_give_no_script():
    assert removal_script("") == ""


def test_our_chains_are_emptied_then_unlinked_then_removed():
    assert removal_script(OURS).splitlines() == [
        "*nat",
        ":CNI-DN-aaaa - [0:0]",
        ":CNI-HOSTPORT-DNAT - [0:0]",
        ":KUBE-SERVICES - [0:0]",
        ":KUBE-SVC-X - [0:0]",
        '-D PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
        "-D PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT",
        "-D POSTROUTING -s 10.222.0.0/24 ! -o octavo0 -m comment --comment octavo -j MASQUERADE",
        "-X CNI-DN-aaaa",
        "-X CNI-HOSTPORT-DNAT",
        "-X KUBE-SERVICES",
        "-X KUBE-SVC-X",
        "COMMIT",
    ]


def test_the_shared_portmap_chain_stays_while_another_network_uses_it():
    theirs = '-A CNI-HOSTPORT-DNAT -m comment --comment "dnat name: \\"podman\\" id: \\"8\\"" -j CNI-DN-bbbb\n'
    other = OURS.replace(":KUBE-SERVICES", ":CNI-DN-bbbb - [0:0]\n:KUBE-SERVICES")
    other = other.replace("-A KUBE-SERVICES", theirs + "-A KUBE-SERVICES")
    script = removal_script(other).splitlines()
    assert "-X CNI-HOSTPORT-DNAT" not in script
    assert not [line for line in script if "CNI-DN-bbbb" in line]
    assert [line for line in script if line.startswith("-D CNI-HOSTPORT-DNAT") and line.endswith("-j CNI-DN-aaaa")]
