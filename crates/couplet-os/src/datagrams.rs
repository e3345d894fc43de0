//! Datagrams in batches: recvmmsg(2) and sendmmsg(2), with their control messages.
//!
//! Linux only. The control messages carry the destination address and interface of a datagram
//! (`IP_PKTINFO`, `IPV6_PKTINFO`), its TOS byte (`IP_TOS`, `IPV6_TCLASS`), the segment size of
//! coalesced datagrams (`UDP_GRO`, `UDP_SEGMENT`), and the sender's credentials on a UNIX socket.
//! Descriptors received with a UNIX datagram are closed.
//!
//! Contract: 156, 160, 160d.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};

/// Maximum datagrams that one call sends.
pub const SENT_AT_ONCE: usize = 64;

/// Size of the control buffer of one datagram, in words for alignment. Received messages take 40
/// bytes for an address and its interface, twice 24 for the TOS, 24 for a segment size, 32 for
/// credentials. The kernel truncates the rest, and closes the descriptors in it.
const CONTROL: usize = 32;

/// A socket's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// The name of an Internet socket.
    Inet(SocketAddr),
    /// The name of a UNIX socket: a path, or a NUL and an abstract name; empty if unnamed.
    Unix(Vec<u8>),
}

impl Name {
    /// The address and port of an Internet socket.
    pub fn inet(&self) -> Option<SocketAddr> {
        match self {
            Name::Inet(address) => Some(*address),
            Name::Unix(_) => None,
        }
    }
}

/// A datagram of the last [`Batch::receive`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// The bytes of the datagram, or of several if there is a [`segment`](Self::segment).
    pub data: &'a [u8],
    /// The sender.
    pub from: Name,
    /// The destination address.
    pub to: Option<IpAddr>,
    /// The number of the receiving interface.
    pub interface: Option<u32>,
    /// The datagram was longer than its buffer, and the excess was discarded.
    pub cut: bool,
    /// The TOS byte, or traffic class.
    pub tos: Option<u8>,
    /// `data` holds several datagrams of this length; the last may be shorter.
    pub segment: Option<usize>,
    /// Process, user and group of the sender, on a UNIX socket.
    pub credentials: Option<(u32, u32, u32)>,
}

/// Buffers for the datagrams of one receive call.
pub struct Batch {
    headers: NonNull<[libc::mmsghdr]>,
    places: NonNull<[Place]>,
    /// The bytes of all places. The kernel allocates a page when a datagram first needs it.
    bytes: NonNull<[u8]>,
    stride: usize,
    size: usize,
    filled: usize,
}

/// The header data of one datagram.
struct Place {
    slice: libc::iovec,
    name: libc::sockaddr_storage,
    control: [u64; CONTROL],
}

impl Batch {
    /// A batch for at most `count` datagrams of at most `size` bytes each.
    ///
    /// # Panics
    ///
    /// If either is 0.
    pub fn new(count: usize, size: usize) -> Batch {
        assert!(count > 0 && size > 0, "a batch needs a count and a size");
        // Not a multiple of a page, or the first bytes of all places would share few cache lines.
        let stride = size.next_multiple_of(64) + 64;
        // SAFETY: all three are plain data of the C library, for which zeroes are valid.
        let headers = (0..count).map(|_| unsafe { std::mem::zeroed() }).collect::<Box<[_]>>();
        // SAFETY: as above.
        let places = (0..count).map(|_| unsafe { std::mem::zeroed() }).collect::<Box<[_]>>();
        Batch {
            headers: NonNull::from(Box::leak(headers)),
            places: NonNull::from(Box::leak(places)),
            bytes: NonNull::from(Box::leak(vec![0; count * stride].into_boxed_slice())),
            stride,
            size,
            filled: 0,
        }
    }

    /// Maximum bytes of one datagram.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Maximum number of datagrams.
    pub fn places(&self) -> usize {
        self.headers.len()
    }

    /// Receives arrived datagrams without waiting: at most `count` and at most as many as there are
    /// places, and at most `size` bytes of each. Returns their number.
    ///
    /// # Errors
    ///
    /// The system's error; [`WouldBlock`](io::ErrorKind::WouldBlock) if no datagram has arrived.
    pub fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        count: usize,
        size: usize,
    ) -> io::Result<usize> {
        let count = count.min(self.places());
        for n in 0..count {
            self.prepare(n, size.min(self.size));
        }
        self.filled = 0;
        let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
        // SAFETY: `prepare` has pointed each header at memory of this batch, with its length; the
        // socket is open while it is borrowed; a null pointer means no time limit.
        let n = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_ptr().cast(),
                count as libc::c_uint,
                flags as _,
                ptr::null_mut(),
            )
        };
        if n < 0 {
            return Err(io::Error::last_os_error());
        }
        self.filled = n as usize;
        for n in 0..self.filled {
            self.close_descriptors(n);
        }
        Ok(self.filled)
    }

    /// Closes the descriptors received with a datagram, which only UNIX datagrams have.
    fn close_descriptors(&self, n: usize) {
        let (header, place) = self.filled(n);
        let header = &header.msg_hdr;
        if header.msg_namelen > 0 && libc::c_int::from(place.name.ss_family) != libc::AF_UNIX {
            return;
        }
        for_each_message(header, |level, kind, data| {
            if (level, kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                for number in data.chunks_exact(size_of::<libc::c_int>()) {
                    let number = number.first_chunk().map(|n| i32::from_ne_bytes(*n));
                    // SAFETY: the kernel has just installed it for us, and no other code knows its
                    // number.
                    drop(number.map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
                }
            }
        });
    }

    /// Points the header of a place at its memory.
    fn prepare(&mut self, n: usize, size: usize) {
        // SAFETY: `n` is below the number of places, and each has `stride` bytes; the pointers come
        // from boxes that this batch owns, and no reference into them is alive.
        unsafe {
            let place = self.places.cast::<Place>().as_ptr().add(n);
            (*place).slice.iov_base = self.bytes.cast::<u8>().as_ptr().add(n * self.stride).cast();
            (*place).slice.iov_len = size;
            let header = &raw mut (*self.headers.cast::<libc::mmsghdr>().as_ptr().add(n)).msg_hdr;
            (*header).msg_name = (&raw mut (*place).name).cast();
            (*header).msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            (*header).msg_iov = &raw mut (*place).slice;
            (*header).msg_iovlen = 1;
            (*header).msg_control = (&raw mut (*place).control).cast();
            (*header).msg_controllen = size_of::<[u64; CONTROL]>() as _;
            (*header).msg_flags = 0;
        }
    }

    /// A place that the last receive call has filled, and its header.
    fn filled(&self, n: usize) -> (&libc::mmsghdr, &Place) {
        assert!(n < self.filled, "only {} datagrams were received", self.filled);
        // SAFETY: `n` is below the number of places; the kernel has filled in the header, and nothing
        // writes to it, or to the place, while `self` is borrowed.
        unsafe {
            (
                &*self.headers.cast::<libc::mmsghdr>().as_ptr().add(n),
                &*self.places.cast::<Place>().as_ptr().add(n),
            )
        }
    }

    /// The length of a received datagram, twice; for several coalesced datagrams, the total length
    /// and the length of each.
    ///
    /// # Panics
    ///
    /// If fewer datagrams were received.
    pub fn lengths(&self, n: usize) -> (usize, usize) {
        let (header, place) = self.filled(n);
        let length = (header.msg_len as usize).min(place.slice.iov_len);
        let mut segment = None;
        for_each_message(&header.msg_hdr, |level, kind, data| {
            if (level, kind) == (libc::SOL_UDP, libc::UDP_GRO) {
                segment = segment_of(data);
            }
        });
        (length, segment.unwrap_or(length))
    }

    /// A received datagram.
    ///
    /// # Panics
    ///
    /// If fewer datagrams were received.
    pub fn get(&self, n: usize) -> Received<'_> {
        let (header, place) = self.filled(n);
        // SAFETY: each place has `stride` bytes, and `size` is less; nothing writes to them while `self`
        // is borrowed.
        let bytes = unsafe {
            let start = self.bytes.cast::<u8>().as_ptr().add(n * self.stride);
            std::slice::from_raw_parts(start, self.size)
        };
        let hdr = &header.msg_hdr;
        let mut received = Received {
            data: &bytes[..(header.msg_len as usize).min(place.slice.iov_len)],
            from: name_of(&place.name, hdr.msg_namelen as usize),
            to: None,
            interface: None,
            cut: hdr.msg_flags & libc::MSG_TRUNC != 0,
            tos: None,
            segment: None,
            credentials: None,
        };
        for_each_message(hdr, |level, kind, data| received.take(level, kind, data));
        received
    }
}

/// Calls `f` with the level, kind and data of each control message.
fn for_each_message(header: &libc::msghdr, mut f: impl FnMut(libc::c_int, libc::c_int, &[u8])) {
    // SAFETY: a header that the kernel has filled in describes the messages that it has written.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !message.is_null() {
        // SAFETY: it points at a whole message, as CMSG_FIRSTHDR and CMSG_NXTHDR check; its data
        // begins at CMSG_DATA, and its length includes the bytes before that.
        let (level, kind, data) = unsafe {
            let start = libc::CMSG_DATA(message);
            let before = start as usize - message as usize;
            let length = ((*message).cmsg_len as usize).saturating_sub(before);
            ((*message).cmsg_level, (*message).cmsg_type, std::slice::from_raw_parts(start, length))
        };
        f(level, kind, data);
        // SAFETY: as above.
        message = unsafe { libc::CMSG_NXTHDR(header, message) };
    }
}

impl Received<'_> {
    /// Records the content of a control message.
    fn take(&mut self, level: libc::c_int, kind: libc::c_int, data: &[u8]) {
        let int = || data.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let Some(info) = read::<libc::in_pktinfo>(data) else { return };
                self.to = Some(Ipv4Addr::from_bits(u32::from_be(info.ipi_addr.s_addr)).into());
                self.interface = Some(info.ipi_ifindex.cast_unsigned());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let Some(info) = read::<libc::in6_pktinfo>(data) else { return };
                self.to = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).to_canonical());
                self.interface = Some(info.ipi6_ifindex);
            }
            // A byte for IPv4, an int for IPv6.
            (libc::IPPROTO_IP, libc::IP_TOS) => self.tos = data.first().copied(),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => self.tos = int().map(|tos| tos as u8),
            (libc::SOL_UDP, libc::UDP_GRO) => self.segment = segment_of(data),
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => {
                let Some(peer) = read::<libc::ucred>(data) else { return };
                self.credentials = Some((peer.pid.cast_unsigned(), peer.uid, peer.gid));
            }
            _ => {}
        }
    }
}

/// The length of each of several coalesced datagrams.
fn segment_of(data: &[u8]) -> Option<usize> {
    let length = i32::from_ne_bytes(*data.first_chunk()?);
    usize::try_from(length).ok().filter(|length| *length > 0)
}

/// The content of a control message.
trait Plain: Copy {}

impl Plain for libc::in_pktinfo {}
impl Plain for libc::in6_pktinfo {}
impl Plain for libc::ucred {}

fn read<T: Plain>(data: &[u8]) -> Option<T> {
    // SAFETY: it is long enough; a `Plain` may have any bytes, and its alignment does not matter.
    (data.len() >= size_of::<T>()).then(|| unsafe { ptr::read_unaligned(data.as_ptr().cast()) })
}

impl Drop for Batch {
    fn drop(&mut self) {
        // SAFETY: all three come from boxes, and are freed nowhere else.
        unsafe {
            drop(Box::from_raw(self.headers.as_ptr()));
            drop(Box::from_raw(self.places.as_ptr()));
            drop(Box::from_raw(self.bytes.as_ptr()));
        }
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("size", &self.size).finish_non_exhaustive()
    }
}

/// A datagram to send, or several of equal length for one destination.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The bytes of the datagram, or of several if there is a [`segment`](Self::segment).
    pub data: &'a [u8],
    /// The destination; `None` on a connected socket.
    pub to: Option<Target<'a>>,
    /// The local address to send from, and the number of the interface, 0 for any.
    pub from: Option<(IpAddr, u32)>,
    /// The TOS byte or traffic class, instead of the socket's.
    pub tos: Option<u8>,
    /// The kernel splits `data` into datagrams of this length (`UDP_SEGMENT`).
    pub segment: Option<u16>,
}

/// A socket's name, borrowed.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// The name of an Internet socket, in the family of the sending socket.
    Inet(SocketAddr),
    /// The name of a UNIX socket: a path, or a NUL and an abstract name.
    Unix(&'a [u8]),
}

/// Sends as many datagrams as the system accepts without waiting, at most [`SENT_AT_ONCE`]. Returns
/// their number.
///
/// # Errors
///
/// The system's error for the first datagram, which was not sent.
pub fn send(socket: BorrowedFd<'_>, batch: &[Outgoing<'_>]) -> io::Result<usize> {
    let batch = &batch[..batch.len().min(SENT_AT_ONCE)];
    let mut headers: [MaybeUninit<libc::mmsghdr>; SENT_AT_ONCE] =
        [const { MaybeUninit::uninit() }; SENT_AT_ONCE];
    let mut places: [MaybeUninit<OutgoingMessage>; SENT_AT_ONCE] =
        [const { MaybeUninit::uninit() }; SENT_AT_ONCE];
    for ((outgoing, header), place) in batch.iter().zip(&mut headers).zip(&mut places) {
        let place = place.write(OutgoingMessage::new(outgoing));
        // SAFETY: plain data of the C library, for which zeroes are valid.
        let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        if place.name_length > 0 {
            message.msg_hdr.msg_name = (&raw mut place.name).cast();
            message.msg_hdr.msg_namelen = place.name_length;
        }
        message.msg_hdr.msg_iov = &raw mut place.slice;
        message.msg_hdr.msg_iovlen = 1;
        if place.control_length > 0 {
            message.msg_hdr.msg_control = (&raw mut place.control).cast();
            message.msg_hdr.msg_controllen = place.control_length as _;
        }
        header.write(message);
    }
    // SAFETY: as many headers are initialized, and point at memory that outlives the call; the
    // kernel does not write to the bytes that the slices point at.
    let n = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr().cast(),
            batch.len() as libc::c_uint,
            (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
        )
    };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
}

/// Words for the control messages of an outgoing datagram: 40 bytes for the address to send from,
/// 24 for the TOS, 24 for the segment size.
const CONTROL_WORDS: usize = 11;

/// The memory that the header of an outgoing datagram points at.
struct OutgoingMessage {
    slice: libc::iovec,
    name: libc::sockaddr_storage,
    name_length: libc::socklen_t,
    control: [u64; CONTROL_WORDS],
    control_length: usize,
}

impl OutgoingMessage {
    fn new(outgoing: &Outgoing<'_>) -> OutgoingMessage {
        let mut prepared = OutgoingMessage {
            slice: libc::iovec {
                iov_base: outgoing.data.as_ptr().cast_mut().cast(),
                iov_len: outgoing.data.len(),
            },
            // SAFETY: plain data of the C library, for which zeroes are valid.
            name: unsafe { std::mem::zeroed() },
            name_length: 0,
            control: [0; CONTROL_WORDS],
            control_length: 0,
        };
        if let Some(to) = outgoing.to {
            prepared.name_length = write_name(&mut prepared.name, to);
        }
        let is_v6 = match outgoing.to {
            Some(Target::Inet(to)) => to.is_ipv6(),
            _ => outgoing.from.is_some_and(|(ip, _)| ip.is_ipv6()),
        };
        if let Some((ip, interface)) = outgoing.from {
            prepared.set_source(ip, interface, is_v6);
        }
        if let Some(tos) = outgoing.tos {
            let value = libc::c_int::from(tos);
            // An IPv4 datagram on an IPv6 socket accepts either kind of message.
            match outgoing.to {
                Some(Target::Inet(to)) if to.ip().to_canonical().is_ipv4() => {
                    prepared.push(libc::IPPROTO_IP, libc::IP_TOS, value);
                }
                _ if is_v6 => prepared.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, value),
                _ => prepared.push(libc::IPPROTO_IP, libc::IP_TOS, value),
            }
        }
        if let Some(segment) = outgoing.segment {
            prepared.push(libc::SOL_UDP, libc::UDP_SEGMENT, segment);
        }
        prepared
    }

    fn set_source(&mut self, ip: IpAddr, interface: u32, is_v6: bool) {
        match ip {
            IpAddr::V4(ip) if !is_v6 => {
                let address = libc::in_addr { s_addr: ip.to_bits().to_be() };
                let info = libc::in_pktinfo {
                    ipi_ifindex: interface.cast_signed(),
                    ipi_spec_dst: address,
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, info);
            }
            ip => {
                let ip = match ip {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                    IpAddr::V6(ip) => ip,
                };
                let address = libc::in6_addr { s6_addr: ip.octets() };
                let info = libc::in6_pktinfo { ipi6_addr: address, ipi6_ifindex: interface };
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
            }
        }
    }

    /// Adds a control message.
    fn push<T: Copy>(&mut self, level: libc::c_int, kind: libc::c_int, value: T) {
        let size = size_of::<T>() as libc::c_uint;
        // SAFETY: both only compute a length.
        let (length, space) = unsafe { (libc::CMSG_LEN(size), libc::CMSG_SPACE(size) as usize) };
        let end = self.control_length + space;
        assert!(
            end <= size_of::<[u64; CONTROL_WORDS]>(),
            "the control buffer fits one message of each kind"
        );
        // SAFETY: the message lies inside of `control`, as was checked, at a multiple of eight
        // bytes; CMSG_DATA is the place behind its header, `length` bytes with it.
        unsafe {
            let message = self.control.as_mut_ptr().byte_add(self.control_length);
            let message = message.cast::<libc::cmsghdr>();
            (*message).cmsg_len = length as _;
            (*message).cmsg_level = level;
            (*message).cmsg_type = kind;
            ptr::write_unaligned(libc::CMSG_DATA(message).cast(), value);
        }
        self.control_length = end;
    }
}

/// Writes a name in the system's form; returns its length.
fn write_name(name: &mut libc::sockaddr_storage, to: Target<'_>) -> libc::socklen_t {
    let to = match to {
        Target::Unix(bytes) => {
            let mut un = libc::sockaddr_un { sun_family: libc::AF_UNIX as _, sun_path: [0; 108] };
            let start = std::mem::offset_of!(libc::sockaddr_un, sun_path);
            // Longer paths are refused earlier; a path ends with a NUL.
            let bytes = &bytes[..bytes.len().min(un.sun_path.len() - 1)];
            for (place, byte) in un.sun_path.iter_mut().zip(bytes) {
                *place = libc::c_char::from_ne_bytes([*byte]);
            }
            let is_path = bytes.first().is_some_and(|first| *first != 0);
            // SAFETY: a sockaddr_storage has room for any name, and may hold any bytes.
            unsafe { ptr::write(ptr::from_mut(name).cast(), un) };
            return (start + bytes.len() + usize::from(is_path)) as libc::socklen_t;
        }
        Target::Inet(to) => to,
    };
    match to {
        SocketAddr::V4(to) => {
            let v4 = libc::sockaddr_in {
                sin_family: libc::AF_INET as _,
                sin_port: to.port().to_be(),
                sin_addr: libc::in_addr { s_addr: to.ip().to_bits().to_be() },
                sin_zero: [0; 8],
            };
            // SAFETY: as above.
            unsafe { ptr::write(ptr::from_mut(name).cast(), v4) };
            size_of::<libc::sockaddr_in>() as libc::socklen_t
        }
        SocketAddr::V6(to) => {
            let v6 = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as _,
                sin6_port: to.port().to_be(),
                sin6_flowinfo: to.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: to.ip().octets() },
                sin6_scope_id: to.scope_id(),
            };
            // SAFETY: as above.
            unsafe { ptr::write(ptr::from_mut(name).cast(), v6) };
            size_of::<libc::sockaddr_in6>() as libc::socklen_t
        }
    }
}

/// Reads a name written by the kernel.
fn name_of(name: &libc::sockaddr_storage, length: usize) -> Name {
    let at: *const libc::sockaddr_storage = name;
    match libc::c_int::from(name.ss_family) {
        libc::AF_INET if length >= size_of::<libc::sockaddr_in>() => {
            // SAFETY: a sockaddr_storage holds any name, and its family says that it is this one.
            let v4 = unsafe { &*at.cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from_bits(u32::from_be(v4.sin_addr.s_addr));
            Name::Inet((ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 if length >= size_of::<libc::sockaddr_in6>() => {
            // SAFETY: as above.
            let v6 = unsafe { &*at.cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            Name::Inet(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
        }
        libc::AF_UNIX => {
            let start = std::mem::offset_of!(libc::sockaddr_un, sun_path);
            // SAFETY: as above.
            let un = unsafe { &*at.cast::<libc::sockaddr_un>() };
            let length = length.saturating_sub(start).min(un.sun_path.len());
            let mut bytes: Vec<u8> =
                un.sun_path[..length].iter().flat_map(|byte| byte.to_ne_bytes()).collect();
            if bytes.first().is_some_and(|first| *first != 0) {
                bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(length));
            }
            Name::Unix(bytes)
        }
        _ => Name::Unix(Vec::new()),
    }
}

/// A boolean option of a datagram socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// Enables [`Received::to`] and [`Received::interface`] for IPv4.
    PacketInfoV4,
    /// Enables [`Received::to`] and [`Received::interface`] for IPv6.
    PacketInfoV6,
    /// Enables [`Received::tos`] for IPv4.
    TosV4,
    /// Enables [`Received::tos`] for IPv6.
    TosV6,
    /// Lets the kernel coalesce received datagrams: see [`Received::segment`].
    Gro,
    /// Enables [`Received::credentials`] on a UNIX socket.
    Credentials,
}

/// Turns an option on.
///
/// # Errors
///
/// The system's error, for example if the kernel does not know the option.
pub fn turn_on(socket: BorrowedFd<'_>, flag: Flag) -> io::Result<()> {
    let (level, name) = match flag {
        Flag::PacketInfoV4 => (libc::IPPROTO_IP, libc::IP_PKTINFO),
        Flag::PacketInfoV6 => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
        Flag::TosV4 => (libc::IPPROTO_IP, libc::IP_RECVTOS),
        Flag::TosV6 => (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
        Flag::Gro => (libc::SOL_UDP, libc::UDP_GRO),
        Flag::Credentials => (libc::SOL_SOCKET, libc::SO_PASSCRED),
    };
    let on: libc::c_int = 1;
    set(socket, level, name, &on)
}

/// Whether the kernel coalesces the datagrams that a socket receives; false if it can't.
pub fn coalesces(socket: BorrowedFd<'_>) -> bool {
    let mut is_on: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `is_on`, and the length to `length`; the
    // socket is open while it is borrowed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_GRO,
            ptr::from_mut(&mut is_on).cast(),
            &mut length,
        )
    };
    result == 0 && is_on != 0
}

/// Joins or leaves a multicast group on the interface with this number, 0 for any, receiving only
/// datagrams of this source.
///
/// # Errors
///
/// The system's error; `InvalidInput` if the addresses are of different families.
pub fn set_source_member(
    socket: BorrowedFd<'_>,
    (group, source): (IpAddr, IpAddr),
    interface: u32,
    on: bool,
) -> io::Result<()> {
    // SAFETY: plain data of the C library, for which zeroes are valid.
    let mut request: libc::group_source_req = unsafe { std::mem::zeroed() };
    request.gsr_interface = interface;
    for (name, ip) in [(&mut request.gsr_group, group), (&mut request.gsr_source, source)] {
        write_name(name, Target::Inet(SocketAddr::new(ip, 0)));
    }
    let name = if on { libc::MCAST_JOIN_SOURCE_GROUP } else { libc::MCAST_LEAVE_SOURCE_GROUP };
    let level = match (group, source) {
        (IpAddr::V4(_), IpAddr::V4(_)) => libc::IPPROTO_IP,
        (IpAddr::V6(_), IpAddr::V6(_)) => libc::IPPROTO_IPV6,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    set(socket, level, name, &request)
}

/// Sends IPv4 multicasts through the interface with this number.
///
/// # Errors
///
/// The system's error, for example if no interface has this number.
pub fn set_multicast_interface_v4(socket: BorrowedFd<'_>, number: u32) -> io::Result<()> {
    // SAFETY: plain data of the C library, for which zeroes are valid.
    let mut request: libc::ip_mreqn = unsafe { std::mem::zeroed() };
    request.imr_ifindex = number.cast_signed();
    set(socket, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, &request)
}

fn set<T>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: the socket is open while it is borrowed; the kernel reads as many bytes of `value` as its
    // size says.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{self, UnixDatagram};

    use couplet_testkit::needed::loopbacks;

    use super::*;

    fn bound(ip: impl Into<IpAddr>) -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind((ip.into(), 0)).expect("a free port");
        let address = socket.local_addr().expect("bound");
        (socket, address)
    }

    fn to(to: SocketAddr) -> Option<Target<'static>> {
        Some(Target::Inet(to))
    }

    fn plain<'a>(data: &'a [u8], to: Option<Target<'a>>) -> Outgoing<'a> {
        Outgoing { data, to, from: None, tos: None, segment: None }
    }

    #[test]
    fn a_batch_arrives_with_addresses_tos_and_truncation() {
        for ip in loopbacks() {
            let ((a, from), (b, address)) = (bound(ip), bound(ip));
            let flags = match from.is_ipv4() {
                true => [Flag::PacketInfoV4, Flag::TosV4],
                false => [Flag::PacketInfoV6, Flag::TosV6],
            };
            for flag in flags {
                turn_on(b.as_fd(), flag).expect("Linux knows it");
            }
            let there = to(address);
            let marked = Outgoing { tos: Some(0x2a), ..plain(b"marked", there) };
            let bound = Outgoing { from: Some((from.ip(), 0)), ..plain(b"0123456789", there) };
            let sent = [plain(b"", there), marked, bound];
            assert_eq!(send(a.as_fd(), &sent).expect("there is room"), 3);
            let mut batch = Batch::new(4, 8);
            assert_eq!((batch.places(), batch.size()), (4, 8));
            assert_eq!(batch.receive(b.as_fd(), 64, 8).expect("they have arrived"), 3);
            let data: Vec<_> = (0..3).map(|n| batch.get(n).data.to_vec()).collect();
            assert_eq!(data, [&b""[..], b"marked", b"01234567"]);
            for n in 0..3 {
                let got = batch.get(n);
                assert_eq!((got.from, got.to), (Name::Inet(from), Some(from.ip())));
                assert_eq!((got.cut, got.segment), (n == 2, None));
                assert_eq!(got.tos, Some(if n == 1 { 0x2a } else { 0 }));
                assert!(got.interface.is_some_and(|number| number > 0));
            }
            let empty = batch.receive(b.as_fd(), 64, 8).expect_err("all were taken");
            assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        }
    }

    #[test]
    fn a_name_is_read_as_it_was_written_with_the_scope_of_an_ipv6_address() {
        // SAFETY: plain data of the C library, for which zeroes are valid.
        let mut name: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let v6 = SocketAddrV6::new(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1), 53, 5, 3);
        for to in [v6.into(), SocketAddr::from(([192, 0, 2, 1], 53))] {
            let length = write_name(&mut name, Target::Inet(to));
            assert_eq!(name_of(&name, length as usize), Name::Inet(to));
            assert_eq!(name_of(&name, length as usize - 1), Name::Unix(Vec::new()), "cut short");
        }
        for unix in [&b"/run/a"[..], b"\0abstract", b""] {
            let length = write_name(&mut name, Target::Unix(unix));
            assert_eq!(name_of(&name, length as usize), Name::Unix(unix.to_vec()));
        }
    }

    #[test]
    fn an_ipv4_datagram_leaves_an_ipv6_socket_and_arrives_there_with_its_own_address() {
        let (b, address) = bound(Ipv6Addr::UNSPECIFIED);
        turn_on(b.as_fd(), Flag::PacketInfoV6).expect("Linux knows it");
        let (a, from) = bound(Ipv4Addr::LOCALHOST);
        let local = SocketAddr::from(([127, 0, 0, 1], address.port()));
        a.send_to(b"x", local).expect("it has an IPv4 side");
        let mut batch = Batch::new(1, 1);
        batch.receive(b.as_fd(), 64, 1).expect("it has arrived");
        assert_eq!(batch.get(0).to, Some(local.ip()));
        let to = SocketAddrV6::new(Ipv4Addr::LOCALHOST.to_ipv6_mapped(), from.port(), 0, 0);
        let back = Outgoing {
            from: Some((local.ip(), 0)),
            tos: Some(4),
            ..plain(b"y", Some(Target::Inet(to.into())))
        };
        turn_on(a.as_fd(), Flag::TosV4).expect("Linux knows it");
        assert_eq!(send(b.as_fd(), &[back]).expect("there is room"), 1);
        batch.receive(a.as_fd(), 64, 1).expect("it has arrived");
        let got = batch.get(0);
        assert_eq!((got.from, got.tos), (Name::Inet(local), Some(4)));
    }

    #[test]
    fn segments_arrive_as_datagrams_or_joined_with_gro() {
        for joined in [false, true] {
            let ((a, _), (b, address)) = (bound(Ipv4Addr::LOCALHOST), bound(Ipv4Addr::LOCALHOST));
            if joined {
                turn_on(b.as_fd(), Flag::Gro).expect("Linux knows it");
            }
            let all = Outgoing { segment: Some(2), ..plain(b"aabbc", to(address)) };
            assert_eq!(send(a.as_fd(), &[all]).expect("there is room"), 1);
            let mut batch = Batch::new(4, 64);
            let n = batch.receive(b.as_fd(), 64, 64).expect("they have arrived");
            let got: Vec<_> = (0..n)
                .flat_map(|n| {
                    let got = batch.get(n);
                    let size = got.segment.unwrap_or(64);
                    got.data.chunks(size).map(<[u8]>::to_vec).collect::<Vec<_>>()
                })
                .collect();
            assert_eq!(got, [&b"aa"[..], b"bb", b"c"]);
            assert_eq!(batch.lengths(0), if joined { (5, 2) } else { (2, 2) });
        }
    }

    #[test]
    fn a_group_is_joined_by_an_interface_for_one_source_and_left() {
        let number = crate::interfaces::interface_number("lo").expect("Linux has it");
        let unspecified: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let groups = ["232.1.2.3", "ff31::4321:1234"];
        for ((ip, any), group) in loopbacks().into_iter().zip(unspecified).zip(groups) {
            let ((a, from), (b, to)) = (bound(ip), bound(any));
            let group: IpAddr = group.parse().expect("an address");
            if ip.is_ipv6() {
                set_multicast_interface_v6(&a, number);
            } else {
                set_multicast_interface_v4(a.as_fd(), number).expect("there is one");
            }
            let other = match from.ip() {
                IpAddr::V4(_) => IpAddr::from([127, 0, 0, 2]),
                IpAddr::V6(_) => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 2]),
            };
            let of_the_other_family = if group.is_ipv4() { "::1" } else { "127.0.0.1" };
            let mixed = (group, of_the_other_family.parse().expect("an address"));
            assert!(set_source_member(b.as_fd(), mixed, number, true).is_err());
            for (source, arrives) in [(other, false), (from.ip(), true)] {
                set_source_member(b.as_fd(), (group, source), number, true).expect("it is one");
                match a.send_to(b"x", (group, to.port())) {
                    // A machine without a network may have no route for the multicasts of IPv6.
                    Err(error) if error.kind() == io::ErrorKind::NetworkUnreachable => {
                        assert!(group.is_ipv6(), "{error}");
                    }
                    sent => {
                        sent.expect("it is routed");
                        let got = Batch::new(1, 1).receive(b.as_fd(), 1, 1);
                        assert_eq!(got.is_ok(), arrives, "{source} {got:?}");
                    }
                }
                set_source_member(b.as_fd(), (group, source), number, false).expect("it was one");
            }
        }
    }

    /// IPV6_MULTICAST_IF.
    fn set_multicast_interface_v6(socket: &UdpSocket, number: u32) {
        set(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, &number)
            .expect("there is one");
    }

    #[test]
    fn a_unix_datagram_has_a_name_and_credentials_and_its_descriptors_are_closed() {
        let name = |text: &str| format!("\0couplet-os-{}-{text}", std::process::id());
        let at = |text: &str| {
            let name = name(text);
            let name = net::SocketAddr::from_abstract_name(&name[1..]);
            UnixDatagram::bind_addr(&name.expect("short enough")).expect("a free name")
        };
        let (a, b) = (at("a"), at("b"));
        turn_on(b.as_fd(), Flag::Credentials).expect("Linux knows it");
        let (there, mut batch) = (name("b"), Batch::new(2, 8));
        let there = Some(Target::Unix(there.as_bytes()));
        let outgoing = Outgoing { data: b"x", to: there, from: None, tos: None, segment: None };
        assert_eq!(send(a.as_fd(), &[outgoing]).expect("there is room"), 1);
        batch.receive(b.as_fd(), 64, 8).expect("it has arrived");
        let got = batch.get(0);
        assert_eq!(got.from, Name::Unix(name("a").into_bytes()));
        assert_eq!(got.credentials.map(|(pid, ..)| pid), Some(std::process::id()));
        // The datagram carries the only descriptors of the reading ends of pipes: once they are
        // closed, a write to a pipe fails.
        let (readers, writers): (Vec<_>, Vec<_>) =
            (0..3).map(|_| io::pipe().expect("a pipe")).unzip();
        let readers = readers.into_iter().map(OwnedFd::from).collect::<Vec<_>>();
        pass(&a, &b, readers.try_into().expect("three"));
        batch.receive(b.as_fd(), 64, 8).expect("it has arrived");
        assert_eq!(batch.get(0).data, b"y");
        for mut writer in writers {
            let broken = io::Write::write(&mut writer, b"!").expect_err("nobody reads it");
            assert_eq!(broken.kind(), io::ErrorKind::BrokenPipe);
        }
    }

    #[test]
    fn a_batch_keeps_nothing_of_what_it_held_before() {
        let mut batch = Batch::new(2, 64);
        let own = format!("\0couplet-os-{}-", std::process::id());
        let bind = |name: &str| {
            let name = net::SocketAddr::from_abstract_name(&name[1..]).expect("short enough");
            UnixDatagram::bind_addr(&name).expect("a free name")
        };
        let place = format!("{own}batch");
        let (there, unnamed) = (bind(&place), UnixDatagram::unbound().expect("a socket"));
        let target = Some(Target::Unix(place.as_bytes()));
        let (v4, v4_at) = bound(Ipv4Addr::LOCALHOST);
        turn_on(v4.as_fd(), Flag::PacketInfoV4).expect("Linux knows it");
        for round in 0..2 {
            // Senders with a long name and without one, and an address of IPv4.
            let name = format!("{own}{}", format!("long {round}").repeat(8));
            let long = bind(&name);
            for (sender, from) in [(&long, &*name), (&unnamed, "")] {
                let sent = [plain(b"a long one", target), plain(b"short", target)];
                assert_eq!(send(sender.as_fd(), &sent).expect("there is room"), 2);
                assert_eq!(batch.receive(there.as_fd(), 64, 5).expect("they have arrived"), 2);
                let data = [(&b"a lon"[..], true), (b"short", false)];
                for (n, (data, cut)) in data.into_iter().enumerate() {
                    let got = batch.get(n);
                    assert_eq!((got.data, got.cut), (data, cut));
                    assert_eq!(got.from, Name::Unix(from.as_bytes().to_vec()), "{round}");
                    assert_eq!((got.to, got.credentials), (None, None));
                }
            }
            assert_eq!(send(v4.as_fd(), &[plain(b"to itself", to(v4_at))]).expect("room"), 1);
            assert_eq!(batch.receive(v4.as_fd(), 64, 64).expect("it has arrived"), 1);
            let got = batch.get(0);
            assert_eq!((got.data, got.cut), (&b"to itself"[..], false));
            assert_eq!((got.from, got.to), (Name::Inet(v4_at), Some(v4_at.ip())));
        }
        assert!(batch.receive(there.as_fd(), 64, 64).is_err(), "all were taken");
    }

    /// Sends a datagram with descriptors.
    fn pass(from: &UnixDatagram, to: &UnixDatagram, descriptors: [OwnedFd; 3]) {
        let name = to.local_addr().expect("bound");
        from.connect_addr(&name).expect("it is there");
        let mut outgoing = OutgoingMessage::new(&plain(b"y", None));
        let numbers = descriptors.each_ref().map(AsRawFd::as_raw_fd);
        outgoing.push(libc::SOL_SOCKET, libc::SCM_RIGHTS, numbers);
        // SAFETY: zeroes are valid, and the message's pointers refer to memory that outlives the
        // call.
        let sent = unsafe {
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_iov = &raw mut outgoing.slice;
            message.msg_iovlen = 1;
            message.msg_control = (&raw mut outgoing.control).cast();
            message.msg_controllen = outgoing.control_length as _;
            libc::sendmsg(from.as_raw_fd(), &raw const message, 0)
        };
        assert_eq!(sent, 1);
    }
}
