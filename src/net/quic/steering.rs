//! Which endpoint a datagram is for, and how it gets there.
//!
//! The kernel spreads datagrams over the sockets of an address by where they come from and go to. That is right until a
//! client's address changes, or a socket is added. So whoever reads a datagram looks at its connection ID (it is not
//! encrypted, RFC 8999 section 5) and hands what is another endpoint's over to it. First packets, whose ID the client
//! made up, are shared out by that ID: connections from one address do not all fall to one worker.

use std::collections::VecDeque;
use std::fmt;
use std::io::IoSliceMut;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use aws_lc_rs::{hkdf, hmac};
use parking_lot::{Mutex, RwLock};
use quinn::udp::{EcnCodepoint, RecvMeta};

use super::ids::{IdKey, LENGTH, MAX_NUMBER};
use crate::base::limits;
use crate::net::tls::QUIC_VERSION;
use crate::telemetry::metrics::QuicMetrics;

/// What the endpoints of one process share: keys that live as long as it does, and the way to each other.
pub struct Steering {
    pub(super) ids: Arc<IdKey>,
    pub(super) reset_key: Arc<hmac::Key>,
    pub(super) token_key: Arc<hkdf::Prk>,
    pub(super) metrics: Arc<QuicMetrics>,
    /// By number. A place whose endpoint is gone is used again.
    inboxes: RwLock<Vec<Weak<Inbox>>>,
}

/// Datagrams that others read for an endpoint.
#[derive(Debug)]
pub(super) struct Inbox {
    /// Only what came to this port is taken.
    port: u16,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    parcels: VecDeque<Parcel>,
    bytes: usize,
    waker: Option<Waker>,
}

/// Datagrams of one length (but for the last), one behind the other, that came together.
#[derive(Debug)]
struct Parcel {
    from: SocketAddr,
    to: Option<IpAddr>,
    ecn: Option<EcnCodepoint>,
    stride: usize,
    bytes: Box<[u8]>,
}

impl Parcel {
    /// What keeping it takes: a datagram may be a few bytes.
    fn cost(&self) -> usize {
        self.bytes.len() + size_of::<Self>()
    }
}

/// Sorts what one endpoint's socket received.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) steering: Arc<Steering>,
    pub(super) number: u32,
    /// The numbers of all endpoints of the address, this one's among them.
    pub(super) group: Arc<[u32]>,
    pub(super) inbox: Arc<Inbox>,
}

impl Steering {
    /// New keys, and no endpoints.
    ///
    /// # Panics
    /// When the system has no random bytes.
    #[must_use]
    pub fn new(metrics: Arc<QuicMetrics>) -> Arc<Self> {
        let mut secret = [0; 64];
        aws_lc_rs::rand::fill(&mut secret).expect("the system has random bytes");
        let (reset, token) = secret.split_at(32);
        Arc::new(Self {
            ids: Arc::default(),
            reset_key: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, reset)),
            token_key: Arc::new(hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(token)),
            metrics,
            inboxes: RwLock::default(),
        })
    }

    /// Numbers `count` endpoints on one port. `None` when there are too many in the process.
    pub(super) fn desks(self: &Arc<Self>, port: u16, count: usize) -> Option<Vec<Desk>> {
        let mut inboxes = self.inboxes.write();
        let made: Vec<Arc<Inbox>> = (0..count).map(|_| Arc::new(Inbox { port, queue: Mutex::default() })).collect();
        let mut numbers = Vec::with_capacity(count);
        for inbox in &made {
            let free = inboxes.iter().position(|inbox| inbox.strong_count() == 0).unwrap_or(inboxes.len());
            let number = u32::try_from(free).ok().filter(|number| *number < MAX_NUMBER)?;
            let inbox = Arc::downgrade(inbox);
            match inboxes.get_mut(free) {
                Some(place) => *place = inbox,
                None => inboxes.push(inbox),
            }
            numbers.push(number);
        }
        drop(inboxes);
        let group: Arc<[u32]> = numbers.clone().into();
        let desk = |(number, inbox)| Desk { steering: Arc::clone(self), number, group: Arc::clone(&group), inbox };
        Some(numbers.into_iter().zip(made).map(desk).collect())
    }

    fn inbox(&self, number: u32, port: u16) -> Option<Arc<Inbox>> {
        let inboxes = self.inboxes.read();
        let inbox = inboxes.get(usize::try_from(number).ok()?)?.upgrade()?;
        (inbox.port == port).then_some(inbox)
    }
}

impl fmt::Debug for Steering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steering").field("endpoints", &self.inboxes.read().len()).finish_non_exhaustive()
    }
}

impl Desk {
    /// Hands over what is not this endpoint's, and closes the gaps: what is left has the same stride.
    pub(super) fn sort(&self, buffer: &mut [u8], meta: &mut RecvMeta) {
        let stride = meta.stride.clamp(1, meta.len.max(1));
        let mut kept = 0;
        let mut at = 0;
        while at < meta.len {
            let end = (at + stride).min(meta.len);
            let number = self.number_of(&buffer[at..end]);
            if number == self.number {
                if kept != at {
                    buffer.copy_within(at..end, kept);
                }
                kept += end - at;
                at = end;
                continue;
            }
            let mut run = end;
            while run < meta.len && self.number_of(&buffer[run..(run + stride).min(meta.len)]) == number {
                run = (run + stride).min(meta.len);
            }
            self.hand_over(number, &buffer[at..run], meta, stride);
            at = run;
        }
        meta.len = kept;
    }

    /// The number of the endpoint that a datagram is for: our own where nobody knows better.
    fn number_of(&self, datagram: &[u8]) -> u32 {
        match address_of(datagram) {
            Addressee::Id(id) => self.known(id).unwrap_or(self.number),
            Addressee::First(id) => self.known(id).unwrap_or_else(|| self.share(id)),
            Addressee::Anybody => self.number,
        }
    }

    /// Whose an ID is, where that is an endpoint on this port.
    fn known(&self, id: &[u8]) -> Option<u32> {
        let number = self.steering.ids.number(id)?;
        if number == self.number || self.group.contains(&number) {
            return Some(number);
        }
        self.steering.inbox(number, self.inbox.port).map(|_| number)
    }

    fn share(&self, id: &[u8]) -> u32 {
        self.group[self.steering.ids.share(id, self.group.len())]
    }

    fn hand_over(&self, number: u32, bytes: &[u8], meta: &RecvMeta, stride: usize) {
        let datagrams = bytes.len().div_ceil(stride) as u64;
        let parcel = Parcel { from: meta.addr, to: meta.dst_ip, ecn: meta.ecn, stride, bytes: bytes.into() };
        let taken = self.steering.inbox(number, self.inbox.port).is_some_and(|inbox| inbox.put(parcel));
        if taken {
            self.steering.metrics.handed_over(datagrams);
        } else {
            self.steering.metrics.dropped(datagrams);
        }
    }
}

impl Inbox {
    /// False when it is full.
    fn put(&self, parcel: Parcel) -> bool {
        let mut queue = self.queue.lock();
        if queue.bytes + parcel.cost() > limits::QUIC_INBOX_BYTES {
            return false;
        }
        queue.bytes += parcel.cost();
        queue.parcels.push_back(parcel);
        let waker = queue.waker.take();
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// As many as there is room for.
    pub(super) fn poll_take(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<usize> {
        let mut queue = self.queue.lock();
        let mut taken = 0;
        for (buffer, meta) in buffers.iter_mut().zip(metas) {
            let Some(parcel) = queue.parcels.pop_front() else { break };
            queue.bytes -= parcel.cost();
            // All endpoints have buffers of the same size, so all of it fits.
            let length = parcel.bytes.len().min(buffer.len());
            buffer[..length].copy_from_slice(&parcel.bytes[..length]);
            meta.addr = parcel.from;
            meta.len = length;
            meta.stride = parcel.stride;
            meta.ecn = parcel.ecn;
            meta.dst_ip = parcel.to;
            taken += 1;
        }
        if taken > 0 {
            return Poll::Ready(taken);
        }
        match &mut queue.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

/// Whom a datagram names.
#[derive(Debug, PartialEq, Eq)]
enum Addressee<'a> {
    /// A connection, by this ID.
    Id(&'a [u8]),
    /// A connection that may not be there yet, by an ID that its client may have made up.
    First(&'a [u8]),
    /// Nobody in particular: another version, or nothing that can be read.
    Anybody,
}

/// Reads no more than the version-independent properties (RFC 8999), but for the type of a packet of version 1 (RFC 9000
/// section 17.2): Initial and 0-RTT are the ones that come before a client knows our ID.
fn address_of(datagram: &[u8]) -> Addressee<'_> {
    const LONG: u8 = 0x80;
    const TYPE: u8 = 0x30;
    const LAST_OF_FIRST: u8 = 0x10;
    let Some((first, rest)) = datagram.split_first() else { return Addressee::Anybody };
    if first & LONG == 0 {
        return rest.get(..LENGTH).map_or(Addressee::Anybody, Addressee::Id);
    }
    let Some((version, rest)) = rest.split_first_chunk::<4>() else { return Addressee::Anybody };
    if u32::from_be_bytes(*version) != QUIC_VERSION {
        return Addressee::Anybody;
    }
    let Some((length, rest)) = rest.split_first() else { return Addressee::Anybody };
    let Some(id) = rest.get(..usize::from(*length)) else { return Addressee::Anybody };
    if first & TYPE <= LAST_OF_FIRST { Addressee::First(id) } else { Addressee::Id(id) }
}

#[cfg(test)]
mod tests;
