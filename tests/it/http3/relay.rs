//! A relay of datagrams that can tell a first flight again, and keeps a handshake from ending.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio::sync::watch;

use crate::support::{PATIENCE, ms, within};

/// Between one client and a server: keeps what the client says, and holds back what the server says until released.
pub struct Relay {
    pub addr: SocketAddr,
    said: Arc<Mutex<Vec<Vec<u8>>>>,
    released: watch::Sender<bool>,
}

impl Relay {
    pub async fn before(server: SocketAddr) -> Self {
        let inside = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let outside = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        outside.connect(server).await.expect("connected");
        let addr = inside.local_addr().expect("an address");
        let said = Arc::default();
        let (released, release) = watch::channel(false);
        tokio::spawn(carry((inside, outside), Arc::clone(&said), release));
        Self { addr, said, released }
    }

    pub fn release(&self) {
        self.released.send_replace(true);
    }

    /// Holds back again what the server says.
    pub fn hold(&self) {
        self.released.send_replace(false);
    }

    /// Says again what the client said first, from another port, and waits for an answer to it.
    pub async fn replay(&self, server: SocketAddr) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let said = self.said.lock().clone();
        let answered = async {
            // For a while after a connection has ended its packets are ignored.
            loop {
                for datagram in &said {
                    socket.send_to(datagram, server).await.expect("sent");
                }
                if tokio::time::timeout(ms(50), socket.recv_from(&mut [0; 2048])).await.is_ok() {
                    return;
                }
            }
        };
        within(PATIENCE, "an answer to the replay", answered).await;
    }
}

async fn carry(
    (inside, outside): (UdpSocket, UdpSocket),
    said: Arc<Mutex<Vec<Vec<u8>>>>,
    mut release: watch::Receiver<bool>,
) {
    let (mut up, mut down) = (vec![0; 2048], vec![0; 2048]);
    let (mut held, mut client, mut released) = (Vec::new(), None, false);
    loop {
        tokio::select! {
            Ok((length, from)) = inside.recv_from(&mut up) => {
                client = Some(from);
                if !released {
                    said.lock().push(up[..length].to_vec());
                }
                outside.send(&up[..length]).await.ok();
            }
            Ok(length) = outside.recv(&mut down) => held.push(down[..length].to_vec()),
            changed = release.changed() => match changed {
                Ok(()) => released = *release.borrow_and_update(),
                Err(_) => return,
            },
        }
        if let Some(client) = client
            && released
        {
            for datagram in held.drain(..) {
                inside.send_to(&datagram, client).await.ok();
            }
        }
    }
}
