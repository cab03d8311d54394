"""Ports that are kept for servers: nobody else gets them, connections are refused until the server listens."""

import socket

import pytest

from cluster.ports import free_ports, neighbouring_ports


def test_a_port_is_kept_until_its_server_listens_and_after_it():
    first, second = free_ports(2)
    assert first != second
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", first))
        with socket.create_server(("127.0.0.1", first)), socket.create_connection(("127.0.0.1", first)):
            pass
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", first))


def test_neighbours_are_both_ours():
    port = neighbouring_ports()
    for each in (port, port + 1):
        socket.create_server(("127.0.0.1", each)).close()
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", each))
