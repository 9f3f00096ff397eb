//! A way for datagrams that can be blocked.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// Hands datagrams on to a server and back, for as long as it lives and is not blocked.
pub(super) struct Relay {
    pub(super) address: SocketAddr,
    blocked: Arc<AtomicBool>,
    _running: JoinSet<()>,
}

impl Relay {
    pub(super) async fn to(server: SocketAddr) -> Self {
        let front = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port"));
        let address = front.local_addr().expect("an address");
        let blocked = Arc::new(AtomicBool::new(false));
        let mut running = JoinSet::new();
        running.spawn(relay(front, server, Arc::clone(&blocked)));
        Self { address, blocked, _running: running }
    }

    pub(super) fn block(&self, blocked: bool) {
        self.blocked.store(blocked, Ordering::Relaxed);
    }
}

async fn relay(front: Arc<UdpSocket>, server: SocketAddr, blocked: Arc<AtomicBool>) {
    let mut callers: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut backs = JoinSet::new();
    let mut datagram = vec![0; 65_536];
    loop {
        let Ok((length, caller)) = front.recv_from(&mut datagram).await else { continue };
        if blocked.load(Ordering::Relaxed) {
            continue;
        }
        let back = match callers.get(&caller) {
            Some(back) => Arc::clone(back),
            None => {
                let back = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port"));
                back.connect(server).await.expect("a way");
                callers.insert(caller, Arc::clone(&back));
                let (from, to, blocked) = (Arc::clone(&back), Arc::clone(&front), Arc::clone(&blocked));
                backs.spawn(async move {
                    let mut datagram = vec![0; 65_536];
                    loop {
                        let Ok(length) = from.recv(&mut datagram).await else { continue };
                        if !blocked.load(Ordering::Relaxed) {
                            let _ = to.send_to(&datagram[..length], caller).await;
                        }
                    }
                });
                back
            }
        };
        let _ = back.send(&datagram[..length]).await;
    }
}
