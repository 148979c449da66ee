"""Networks."""

from __future__ import annotations

import socket

from tests.deploy.escapes.tools import TOLD, attempt, connected, each, first


@attempt
def open_a_raw_socket():
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    return "raw"


@attempt
def open_a_packet_socket():
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)).close()
    return "packet"


@attempt
def ask_the_metadata_service():
    return each(connected, [("169.254.169.254", 80), ("169.254.170.2", 80), ("100.100.100.200", 80)])


@attempt
def ask_the_metadata_service_by_ipv6():
    return connected(("fd00:ec2::254", 80), socket.AF_INET6)


@attempt
def reach_the_internet():
    return each(connected, [("1.1.1.1", 443), ("8.8.8.8", 53), ("93.184.216.34", 80)])


@attempt
def reach_private_networks():
    return each(connected, [("10.0.0.1", 22), ("172.17.0.1", 22), ("192.168.0.1", 80), ("10.88.0.1", 53)])


@attempt
def reach_ports_of_the_host():
    return each(lambda address: connected((address, TOLD["host_port"])), ["127.0.0.1", *TOLD["host_addresses"]])


@attempt
def reach_ports_of_the_host_where_the_gateway_is():
    places = [(name, TOLD[port]) for name in ("gateway", "127.64.0.1") for port in ("host_port", "other_port")]
    return each(connected, [*places, ("gateway", 443), ("127.64.0.2", 80)])


@attempt
def reach_the_socket_of_the_gateway():
    return each(lambda path: connected(path, socket.AF_UNIX), TOLD["gateway_sockets"])


@attempt
def reach_the_port_of_another_application():
    return first(
        [lambda: connected(("127.0.0.1", TOLD["other_port"])), lambda: connected(("127.0.0.1", TOLD["other_inside"]))]
    )


@attempt
def reach_an_abstract_socket_of_the_host():
    return connected("\0" + TOLD["abstract"], socket.AF_UNIX)


@attempt
def reach_the_container_engine():
    return each(lambda path: connected(path, socket.AF_UNIX), TOLD["engine_sockets"])


@attempt
def resolve_a_name_that_is_not_allowed():
    return each(lambda name: socket.getaddrinfo(name, 443)[0][4][0], ["example.com", "metadata.google.internal"])


@attempt
def send_to_a_name_server():
    question = b"\0\1\1\0\0\1\0\0\0\0\0\0\7example\3com\0\0\1\0\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(1)
        udp.sendto(question, ("8.8.8.8", 53))
        return udp.recv(512)


@attempt
def have_another_network_device():
    devices = [name for _, name in socket.if_nameindex() if name != "lo"]
    return devices or None
