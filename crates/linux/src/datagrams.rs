//! Datagrams by the batch: one system call receives or sends many. A server that answers small questions spends most of its
//! time in these calls.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc;

/// How many datagrams one call moves at most.
pub const BATCH_MAX: usize = 32;

/// Places for received datagrams.
pub struct Batch {
    bytes: Vec<u8>,
    size: usize,
    senders: Vec<libc::sockaddr_storage>,
    lengths: [(u32, libc::socklen_t); BATCH_MAX],
}

impl Batch {
    /// Each datagram may have `size` bytes; what is longer loses its end.
    pub fn new(size: usize) -> Self {
        #[expect(unsafe_code, reason = "a socket address has no constructor")]
        // SAFETY: all bytes zero are a valid `sockaddr_storage`: of no family.
        let empty: libc::sockaddr_storage = unsafe { MaybeUninit::zeroed().assume_init() };
        Self { bytes: vec![0; size * BATCH_MAX], size, senders: vec![empty; BATCH_MAX], lengths: [(0, 0); BATCH_MAX] }
    }

    /// Receives what is there, up to a batch, without waiting for more. Gives how many.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut pieces = self.bytes.chunks_exact_mut(self.size);
        let mut vectors: [libc::iovec; BATCH_MAX] = std::array::from_fn(|_| {
            let piece = pieces.next().expect("there are as many pieces as places");
            libc::iovec { iov_base: piece.as_mut_ptr().cast(), iov_len: piece.len() }
        });
        let mut senders = self.senders.iter_mut();
        let mut headers: [libc::mmsghdr; BATCH_MAX] = std::array::from_fn(|at| {
            let mut header = header(&mut vectors[at]);
            let sender = senders.next().expect("there are as many addresses as places");
            header.msg_hdr.msg_name = std::ptr::from_mut(sender).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header
        });
        #[expect(unsafe_code, reason = "the wrapper of nix borrows for longer than a call")]
        // SAFETY: every pointer in the headers leads to memory of this function's or of `self`, which outlives the call, with
        // the length that stands beside it.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH_MAX as u32,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for (length, header) in self.lengths.iter_mut().zip(&headers[..received]) {
            *length = (header.msg_len, header.msg_hdr.msg_namelen);
        }
        Ok(received)
    }

    /// The bytes of a datagram that was received.
    pub fn datagram(&self, at: usize) -> &[u8] {
        let start = at * self.size;
        &self.bytes[start..start + (self.lengths[at].0 as usize).min(self.size)]
    }

    /// Who sent it; `None` where that is no address of the internet.
    pub fn sender(&self, at: usize) -> Option<SocketAddr> {
        let sender = &self.senders[at];
        match i32::from(sender.ss_family) {
            libc::AF_INET => {
                #[expect(unsafe_code, reason = "socket addresses are told apart by their family")]
                // SAFETY: the family says that it is one, and `sockaddr_storage` is as large and as aligned as any.
                let v4 = unsafe { &*std::ptr::from_ref(sender).cast::<libc::sockaddr_in>() };
                let address = Ipv4Addr::from_bits(u32::from_be(v4.sin_addr.s_addr));
                Some((address, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                #[expect(unsafe_code, reason = "socket addresses are told apart by their family")]
                // SAFETY: as above.
                let v6 = unsafe { &*std::ptr::from_ref(sender).cast::<libc::sockaddr_in6>() };
                let (address, port) = (Ipv6Addr::from(v6.sin6_addr.s6_addr), u16::from_be(v6.sin6_port));
                Some(SocketAddrV6::new(address, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }

    /// Sends to senders of this batch, without waiting: whom (by place), and which part of `bytes`. Gives how many went out;
    /// an error says that the first did not.
    pub fn reply(
        &mut self,
        socket: BorrowedFd<'_>,
        replies: &[(usize, Range<usize>)],
        bytes: &[u8],
    ) -> io::Result<usize> {
        let replies = &replies[..replies.len().min(BATCH_MAX)];
        let mut vectors: [libc::iovec; BATCH_MAX] = std::array::from_fn(|at| {
            let part = replies.get(at).map_or(&bytes[..0], |(_, part)| &bytes[part.clone()]);
            libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() }
        });
        let mut headers: [libc::mmsghdr; BATCH_MAX] = std::array::from_fn(|at| {
            let mut header = header(&mut vectors[at]);
            if let Some((whom, _)) = replies.get(at) {
                header.msg_hdr.msg_name = std::ptr::from_mut(&mut self.senders[*whom]).cast();
                header.msg_hdr.msg_namelen = self.lengths[*whom].1;
            }
            header
        });
        #[expect(unsafe_code, reason = "the wrapper of nix borrows for longer than a call")]
        // SAFETY: as for receiving; the kernel does not write to what it sends.
        let sent = unsafe {
            libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), replies.len() as u32, libc::MSG_DONTWAIT)
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// A header of one piece of memory. The pieces stay where they are while the header is used.
fn header(vector: &mut libc::iovec) -> libc::mmsghdr {
    #[expect(unsafe_code, reason = "a message header has private padding in some C libraries, so no literal makes one")]
    // SAFETY: all bytes zero are a valid header: no name, no memory, no control data.
    let mut header: libc::mmsghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_hdr.msg_iov = vector;
    header.msg_hdr.msg_iovlen = 1;
    header
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_batch_comes_in_and_goes_back_to_each_sender() {
        for host in ["127.0.0.1", "::1"] {
            let server = UdpSocket::bind((host, 0)).unwrap();
            let clients: Vec<UdpSocket> = (0..3).map(|_| UdpSocket::bind((host, 0)).unwrap()).collect();
            for (number, client) in clients.iter().enumerate() {
                client.send_to(&vec![b'a' + number as u8; number * 6], server.local_addr().unwrap()).unwrap();
            }
            let mut batch = Batch::new(8);
            let mut all = 0;
            while all < clients.len() {
                let count = batch.receive(server.as_fd()).unwrap();
                let mut replies = Vec::new();
                for at in 0..count {
                    let sender = batch.sender(at).unwrap();
                    let number = clients.iter().position(|client| client.local_addr().unwrap() == sender).unwrap();
                    assert_eq!(batch.datagram(at), vec![b'a' + number as u8; (number * 6).min(8)]);
                    replies.push((at, number..number + 1));
                }
                assert_eq!(batch.reply(server.as_fd(), &replies, b"xyz").unwrap(), count);
                all += count;
            }
            for (number, client) in clients.iter().enumerate() {
                let mut buffer = [0; 8];
                assert_eq!(client.recv(&mut buffer).unwrap(), 1);
                assert_eq!(buffer[0], b"xyz"[number]);
            }
            let none = batch.receive(server.as_fd()).unwrap_err();
            assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
        }
    }
}
