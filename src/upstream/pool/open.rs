//! Connections for those who find none at hand: waited for, dialled, and of the protocol that the server chooses.

use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::oneshot;

use super::dial::{Made, Opened};
use super::h3::Line;
use super::shared::{Multiplexed, Shared, close_all};
use super::turn::{Failure, Turn};
use super::{Preference, Terms, Wire, WorkerPool};
use crate::base::task;
use crate::codec::h1::Home as _;
use crate::codec::h2::H2Connection;
use crate::net::tls::AlpnProtocol;
use crate::upstream::guards::{Open, Pending};
use crate::upstream::lease::{Lease, LeaseError, Overflow};

/// Nothing is known of what the server chooses.
pub(super) const UNKNOWN: u8 = 0;
/// It chose HTTP/1.
const HTTP1: u8 = 1;
/// It chose HTTP/2.
const HTTP2: u8 = 2;

/// How often a request asks again when the server chose another protocol than the last time.
const NEGOTIATIONS: usize = 3;

impl WorkerPool {
    /// A connection, however long it takes.
    pub(super) async fn lease_slowly(
        &self,
        wire: Wire,
        preference: Preference,
        terms: Terms<'_>,
    ) -> Result<Lease, LeaseError> {
        // The server may change what it chooses, from one connection to the next.
        for _ in 0..NEGOTIATIONS {
            let leased = match (wire, self.spoken.load(Ordering::Relaxed)) {
                (Wire::Http1, _) | (Wire::Negotiated, HTTP1) => self.lease_h1(wire, preference, terms).await?,
                (Wire::Http3, _) => self.lease_shared::<Line>(None, preference, terms).await?.map(Lease::H3),
                (Wire::Http2, _) | (Wire::Negotiated, _) => {
                    self.lease_shared::<H2Connection>(wire, preference, terms).await?.map(Lease::H2)
                }
            };
            if let Some(lease) = leased {
                return Ok(lease);
            }
        }
        Err(Failure::Handshake("no-agreement", "the server chooses another protocol each time".into()).into())
    }

    /// `None`: the server chose HTTP/2.
    async fn lease_h1(
        &self,
        wire: Wire,
        preference: Preference,
        terms: Terms<'_>,
    ) -> Result<Option<Lease>, LeaseError> {
        if preference == Preference::Any
            && let Some(connection) = self.take_idle(Instant::now())
        {
            return Ok(Some(Lease::H1(connection)));
        }
        self.check_open()?;
        match self.open_h1(wire, terms).await {
            Ok(Opened::Http1(connection)) => Ok(Some(Lease::H1(connection))),
            Ok(Opened::Http2) => Ok(None),
            // Better an old one than none.
            Err(LeaseError::Overflow(kind)) if preference == Preference::Young => {
                let old = self.take_idle(Instant::now()).ok_or(LeaseError::Overflow(kind))?;
                Ok(Some(Lease::H1(old)))
            }
            Err(error) => Err(error),
        }
    }

    /// A stream of a shared connection. `None`: the server chose HTTP/1.
    pub(super) async fn lease_shared<C: Multiplexed>(
        &self,
        order: C::Order,
        preference: Preference,
        terms: Terms<'_>,
    ) -> Result<Option<C::Slot>, LeaseError> {
        if let Some(slot) = self.reserve::<C>(preference, Instant::now()) {
            return Ok(Some(slot));
        }
        let _pending = Pending::enter(&self.cluster, &self.endpoint, &terms.ceilings)?;
        loop {
            self.check_open()?;
            let mut gone = Vec::new();
            let waiter = {
                let mut shared = C::of(self).lock();
                if let Some(slot) = shared.reserve(preference, Instant::now(), &mut gone) {
                    drop(shared);
                    close_all(gone);
                    return Ok(Some(slot));
                }
                if C::is_off(self, order) {
                    drop(shared);
                    close_all(gone);
                    return Ok(None);
                }
                shared.waiting.retain(|waiter| !waiter.is_closed());
                let (sender, receiver) = oneshot::channel();
                shared.waiting.push_back(sender);
                let expected = shared.dialing * self.key.options.max_streams as usize;
                if shared.waiting.len() > expected {
                    self.start_dial(&mut shared, order, terms)?;
                }
                Turn { told: receiver, shared: C::of(self) }
            };
            close_all(gone);
            waiter.come().await?;
        }
    }

    /// Dials in a task of its own: the caller that happened to be first may leave without failing the others.
    /// At the ceiling those who can wait for a stream of an open connection wait; if there is none, it is an overflow.
    fn start_dial<C: Multiplexed>(
        &self,
        shared: &mut Shared<C>,
        order: C::Order,
        terms: Terms<'_>,
    ) -> Result<(), LeaseError> {
        if self.try_dial(shared, order, terms) || !shared.is_empty() || shared.dialing > 0 {
            return Ok(());
        }
        shared.fail(&Failure::Overflow);
        Err(LeaseError::Overflow(Overflow::Connections))
    }

    /// Dials in a task of its own, unless a ceiling is reached.
    pub(super) fn try_dial<C: Multiplexed>(&self, shared: &mut Shared<C>, order: C::Order, terms: Terms<'_>) -> bool {
        let ceilings = terms.ceilings;
        let (Some(pool), Some(guard)) = (self.this.upgrade(), Open::enter(&self.cluster, &self.endpoint, &ceilings))
        else {
            return false;
        };
        shared.dialing += 1;
        let tls = terms.tls.cloned();
        task::spawn("upstream-dial", async move {
            let made = C::dial(&pool, guard, order, tls.as_deref()).await;
            let terms = Terms { ceilings, tls: tls.as_ref() };
            let mut shared = C::of(&pool).lock();
            shared.dialing -= 1;
            match made {
                Ok(Made::Shared { handle, retire_at }) => {
                    let room = handle.capacity();
                    shared.push(handle, retire_at);
                    shared.wake(room);
                    pool.dial_for_the_rest(&mut shared, room, (order, terms));
                }
                Ok(Made::Http1(connection)) => {
                    // They go on one by one; the first finds this connection idle.
                    shared.wake(usize::MAX);
                    drop(shared);
                    pool.take_back(connection);
                    return;
                }
                Err(failure) if shared.dialing == 0 => shared.fail(&failure),
                Err(_) => {}
            }
            drop(shared);
            pool.settle();
        });
        true
    }

    /// The server may allow fewer streams than we counted on when we decided how many connections to open: those
    /// who are left over must not wait for a stream to end while another connection may be opened.
    fn dial_for_the_rest<C: Multiplexed>(
        &self,
        shared: &mut Shared<C>,
        room: usize,
        (order, terms): (C::Order, Terms<'_>),
    ) {
        shared.waiting.retain(|waiter| !waiter.is_closed());
        let expected = shared.dialing * self.key.options.max_streams as usize;
        // A server that allows no stream at all is not asked again and again.
        if room > 0 && shared.waiting.len() > expected {
            // An overflow leaves them waiting for a stream of the connection that was just made.
            let _ = self.start_dial(shared, order, terms);
        }
    }

    /// Whether the server chose HTTP/1 the last time.
    pub(super) fn chose_http1(&self) -> bool {
        self.spoken.load(Ordering::Relaxed) == HTTP1
    }

    /// Remembers what the server chose.
    pub(super) fn note_spoken(&self, wire: Wire, spoken: AlpnProtocol) {
        if wire == Wire::Negotiated {
            let spoken = match spoken {
                AlpnProtocol::Http1 => HTTP1,
                AlpnProtocol::Http2 => HTTP2,
                // Never chosen over TCP, where it is not offered.
                AlpnProtocol::Http3 => return,
            };
            self.spoken.store(spoken, Ordering::Relaxed);
        }
    }

    fn check_open(&self) -> Result<(), LeaseError> {
        if self.retired.load(Ordering::Acquire) { Err(LeaseError::Retired) } else { Ok(()) }
    }
}
