//! Thousands of WebSockets that say nothing: what each costs, and that changes of the configuration close none.
//!
//! 9,000 and 1,000 changes in the full form (the proxy may have 20,000 descriptors), 2,000 and 25 otherwise.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::support::pki::Leaf;
use crate::support::proxy::Launch;
use crate::support::websocket::{WebSocket, accept_of, read_head};
use crate::support::{Config, Mesh, Proxy, full, gate, ms, within};

/// How callers come.
#[derive(Clone)]
enum Caller {
    Plain(SocketAddr),
    Tls(SocketAddr, TlsConnector),
}

impl Caller {
    async fn open(&self) -> WebSocket {
        match self {
            Self::Plain(addr) => WebSocket::h1(*addr).await,
            Self::Tls(addr, connector) => {
                let stream = TcpStream::connect(addr).await.expect("the proxy accepts");
                stream.set_nodelay(true).ok();
                let name = ServerName::try_from("a.example").expect("a name");
                let stream = connector.connect(name, stream).await.expect("a handshake");
                WebSocket::h1_over(stream, "/chat", "").await.1
            }
        }
    }
}

fn connector(mesh: &Mesh) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(rustls::pki_types::CertificateDer::from_pem_slice(mesh.root.pem.as_bytes()).expect("PEM"))
        .expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// A server that echoes, with one descriptor for each WebSocket.
struct Server {
    addr: SocketAddr,
    open: Arc<AtomicUsize>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let server = Self { addr: listener.local_addr().expect("bound"), open: Arc::default() };
        let open = Arc::clone(&server.open);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let open = Arc::clone(&open);
                tokio::spawn(async move {
                    open.fetch_add(1, Ordering::Relaxed);
                    Self::serve(stream).await.ok();
                    open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        server
    }

    async fn serve(mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let (_, fields) = read_head(&mut stream).await?;
        let accept = accept_of(&fields["sec-websocket-key"]);
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
             sec-websocket-accept: {accept}\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).await?;
        let mut socket = WebSocket::over(stream, false);
        while let Some(frame) = socket.try_next().await? {
            socket.try_send(&frame).await?;
        }
        Ok(())
    }
}

/// Opens WebSockets, some at a time; each has answered once.
async fn open(caller: &Caller, count: usize) -> Vec<WebSocket> {
    let mut opening = JoinSet::new();
    let mut sockets = Vec::with_capacity(count);
    for number in 0..count {
        if opening.len() >= 64 {
            sockets.push(opening.join_next().await.expect("one is opening").expect("it opens"));
        }
        let caller = caller.clone();
        opening.spawn(async move {
            let mut socket = caller.open().await;
            socket.echoes(&format!("hello {number}")).await;
            socket
        });
    }
    while let Some(opened) = opening.join_next().await {
        sockets.push(opened.expect("it opens"));
    }
    sockets
}

/// At most so many bytes of the proxy each, and none is closed by changes of the configuration.
async fn idle(tls: bool, at_most: u64) {
    gate::exclusive();
    let (count, changes) = if full() { (9_000, 1_000) } else { (2_000, 25) };
    let server = Server::start().await;
    let mesh = Mesh::new();
    let mut config = Config::to("http1", &[server.addr])
        .listener("upgrades: { allow: [websocket], maxTunnels: 20000 }")
        .upstream("circuitBreaker: { maxRequests: 20000, maxConnections: 20000 }");
    if tls {
        let (certificate, key) = mesh.files.give("edge", &mesh.issuing.issue(&Leaf::new().dns("a.example")));
        config = config.listener(&format!(
            "tls: {{ mode: strict, certificates: [{{ certificate: {certificate}, privateKey: {key} }}] }}"
        ));
    }
    let launch = Launch { descriptors: Some(20_000), ..Launch::default() };
    let proxy = Proxy::start_as(&config, &launch).await;
    let caller = if tls { Caller::Tls(proxy.addr(), connector(&mesh)) } else { Caller::Plain(proxy.addr()) };
    // What the proxy needs once does not count: code that is touched, and buffers while many open at a time.
    drop(within(Duration::from_secs(60), "the first", open(&caller, 100)).await);
    let tunnels = async || proxy.metric("outrigger_tunnels", &["listener=\"in\""]).await;
    while tunnels().await != 0.0 {
        tokio::time::sleep(ms(5)).await;
    }
    let before = proxy.rss();
    let mut sockets = within(Duration::from_secs(300), "all are open", open(&caller, count)).await;
    assert_eq!(tunnels().await, count as f64);
    let each = settled(&proxy).await.saturating_sub(before) / count as u64;
    println!("{count} idle tunnels{}: {each} bytes each", if tls { " over TLS" } else { "" });
    assert!(each <= at_most, "{each} bytes each");

    for change in 0..changes {
        let changed = config.clone().rule(&format!("timeouts: {{ request: {}ms }}", 10_000 + change));
        let generation = |value: serde_json::Value| value["generation"].as_u64().expect("a number");
        let now = generation(proxy.admin_json("/config").await);
        proxy.replace_config(&changed);
        proxy.signal("HUP");
        within(Duration::from_secs(15), "a change", async {
            while generation(proxy.admin_json("/config").await) == now {
                tokio::time::sleep(ms(2)).await;
            }
        })
        .await;
    }
    assert_eq!(tunnels().await, count as f64, "none is closed");
    assert_eq!(server.open.load(Ordering::Relaxed), count);
    for (number, socket) in sockets.iter_mut().enumerate() {
        socket.echoes(&format!("still here {number}")).await;
    }
    let after = settled(&proxy).await.saturating_sub(before) / count as u64;
    println!("after {changes} changes: {after} bytes each");
    drop(sockets);
    within(Duration::from_secs(60), "all are gone", async {
        while tunnels().await != 0.0 {
            tokio::time::sleep(ms(20)).await;
        }
    })
    .await;
}

/// The proxy's memory once it no longer shrinks: what was freed is given back a little later.
async fn settled(proxy: &Proxy) -> u64 {
    let mut least = proxy.rss();
    for _ in 0..10 {
        tokio::time::sleep(ms(300)).await;
        let now = proxy.rss();
        if now + (64 << 10) >= least {
            return now.min(least);
        }
        least = now;
    }
    least
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_websocket_costs_at_most_20_kib() {
    idle(false, 20 << 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_websocket_over_tls_costs_at_most_40_kib() {
    idle(true, 40 << 10).await;
}
