//! A way for datagrams that can be blocked.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// Hands datagrams on to a server and back, for as long as it lives and is not blocked. It is there before the server is, whose
/// configuration may name its port.
pub struct Relay {
    addr: SocketAddr,
    way: Arc<Way>,
    _running: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Way {
    server: OnceLock<SocketAddr>,
    blocked: AtomicBool,
}

impl Relay {
    /// One that leads nowhere yet.
    pub async fn start() -> Self {
        let front = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port"));
        let addr = front.local_addr().expect("bound");
        let way = Arc::new(Way::default());
        let mut running = JoinSet::new();
        running.spawn(relay(front, Arc::clone(&way)));
        Self { addr, way, _running: running }
    }

    /// Leads to a server from now on.
    pub fn lead_to(&self, server: SocketAddr) {
        self.way.server.set(server).expect("it leads nowhere yet");
    }

    /// Where it takes datagrams.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Whether everything is lost, in both directions.
    pub fn block(&self, blocked: bool) {
        self.way.blocked.store(blocked, Ordering::Relaxed);
    }
}

impl Way {
    fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }
}

async fn relay(front: Arc<UdpSocket>, way: Arc<Way>) {
    let mut callers: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut backs = JoinSet::new();
    let mut datagram = vec![0; 65_536];
    loop {
        let Ok((length, caller)) = front.recv_from(&mut datagram).await else { continue };
        let Some(server) = way.server.get().filter(|_| !way.is_blocked()) else { continue };
        let back = match callers.entry(caller) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let back = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port"));
                back.connect(server).await.expect("a way");
                backs.spawn(hand_back(Arc::clone(&back), (Arc::clone(&front), caller), Arc::clone(&way)));
                place.insert(back)
            }
        };
        back.send(&datagram[..length]).await.ok();
    }
}

async fn hand_back(from: Arc<UdpSocket>, (to, caller): (Arc<UdpSocket>, SocketAddr), way: Arc<Way>) {
    let mut datagram = vec![0; 65_536];
    loop {
        let Ok(length) = from.recv(&mut datagram).await else { continue };
        if !way.is_blocked() {
            to.send_to(&datagram[..length], caller).await.ok();
        }
    }
}
