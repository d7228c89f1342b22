//! SCTP through a service: whole packets, written and read here, since not every kernel that translates SCTP also speaks it.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

use network::proxy::services::{Port, Service, Slice};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket};

use crate::{DEADLINE, Node, SERVICE, on_a_node, slice};

const SCTP: u8 = 132;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;

/// A socket that sees every SCTP packet of its namespace.
fn raw() -> OwnedFd {
    let socket = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::SCTP)).unwrap();
    set_socket_timeout(&socket, Timeout::Recv, Some(DEADLINE)).unwrap();
    socket
}

/// The checksum of RFC 9260: CRC32c.
fn checksum(packet: &[u8]) -> [u8; 4] {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let step = |crc: u32, _: u8| if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
    let crc = packet.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step));
    (!crc).to_le_bytes()
}

/// A packet with the one chunk that begins or takes an association.
fn packet(source: u16, destination: u16, tag: u32, chunk: u8) -> Vec<u8> {
    let mut packet = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    packet.extend(tag.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend([chunk, 0, 0, 20]);
    for word in [7u32, 65_536, 0x0001_0001, 1] {
        packet.extend(word.to_be_bytes());
    }
    let sum = checksum(&packet);
    packet[8..12].copy_from_slice(&sum);
    packet
}

/// What came: the sender, its port, the port, the kind of chunk. The checksum is right.
fn receive(socket: &OwnedFd) -> (Ipv4Addr, u16, u16, u8) {
    let mut buffer = [0; 256];
    let (_, length) = recv(socket, &mut buffer, RecvFlags::empty()).unwrap();
    let (header, packet) = buffer[..length].split_at(20);
    let mut without = packet.to_vec();
    without[8..12].fill(0);
    assert_eq!(packet[8..12], checksum(&without), "the checksum follows the translation");
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    (Ipv4Addr::new(header[12], header[13], header[14], header[15]), port(0), port(2), packet[12])
}

fn send(socket: &OwnedFd, to: Ipv4Addr, packet: &[u8]) {
    sendto(socket, packet, SendFlags::empty(), &SocketAddrV4::new(to, 0)).unwrap();
}

#[test]
fn sctp_reaches_a_pod_through_a_service_and_its_answer_comes_back() {
    on_a_node(|| async {
        let mut node = Node::new().await;
        let (a, address_a) = node.attach("a").await;
        let (b, address_b) = node.attach("b").await;
        let port = Port { name: "s".to_owned(), protocol: SCTP, port: 80, node_port: None };
        let service = Service { cluster_ips: vec![SERVICE], ports: vec![port], ..Service::default() };
        let endpoints = Slice { ports: vec![("s".to_owned(), SCTP, 8082)], ..slice(&[address_b]) };
        node.serve(service, endpoints).await;
        let (client, server) = (a.run(raw), b.run(raw));
        send(&client, SERVICE, &packet(5000, 80, 0, INIT));
        assert_eq!(receive(&server), (address_a, 5000, 8082, INIT));
        send(&server, address_a, &packet(8082, 5000, 7, INIT_ACK));
        assert_eq!(receive(&client), (SERVICE, 80, 5000, INIT_ACK));
    });
}
