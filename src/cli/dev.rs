//! `outrigger dev`: two demo services on this machine, a proxy beside each. What is here is the plan, the
//! services and the words; the proxies themselves are started by `app.rs`.
//!
//! The proxies speak mutual TLS with each other, as in a mesh: the demo is its own certificate authority.

mod authority;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::uri::Scheme;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use self::authority::{Authority, Issued};
use super::Report;
use crate::base::drain::Drain;
use crate::base::task;
use crate::codec::{Body, Handler, Interim, Refusal, Request, Response, ResponseHead, ServerOptions, h1};
use crate::net::io::Io;

/// The demo before it runs: ports are chosen, configurations are written.
#[derive(Debug)]
pub struct Demo {
    folder: PathBuf,
    shop: Side,
    payments: Side,
}

/// A service and the proxy beside it.
#[derive(Debug)]
struct Side {
    name: &'static str,
    admin: SocketAddr,
    outbound: SocketAddr,
    inbound: SocketAddr,
    service: TcpListener,
}

/// Whether each request is shown as it passes a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requests {
    /// On standard output.
    Shown,
    /// Not.
    Hidden,
}

impl Demo {
    /// Chooses ports, the usual ones where they are free, and writes configurations and certificates to a folder
    /// of its own, which nobody else may read.
    ///
    /// # Errors
    /// When there are no ports or the folder cannot be written.
    pub fn prepare(requests: Requests) -> io::Result<Self> {
        let shop = Side::choose("shop", 15000)?;
        let payments = Side::choose("payments", 15010)?;
        // From here on it is removed at the end, also of a failure below.
        let demo = Self { folder: make_folder()?, shop, payments };
        let authority = Authority::new("demo.outrigger", SystemTime::now())?;
        demo.write("bundle.pem", &authority.bundle())?;
        for service in [demo.shop.name, demo.payments.name, STRANGER] {
            let Issued { certificate, private_key } = authority.issue(service)?;
            demo.write(&format!("{service}.pem"), &certificate)?;
            demo.write(&format!("{service}.key"), &private_key)?;
        }
        for (side, other) in [(&demo.shop, &demo.payments), (&demo.payments, &demo.shop)] {
            let folder = demo.folder.display().to_string();
            let text = side.configuration(other, &folder, &authority.identity(other.name), requests)?;
            demo.write(&format!("{}.yaml", side.name), &text)?;
        }
        Ok(demo)
    }

    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        File::options()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(self.folder.join(name))?
            .write_all(text.as_bytes())
    }

    /// The configuration files of the two proxies.
    #[must_use]
    pub fn configs(&self) -> [PathBuf; 2] {
        [&self.shop, &self.payments].map(|side| self.config_of(side))
    }

    /// Starts the two services on the current runtime.
    ///
    /// # Errors
    /// When a socket cannot be handed to the runtime.
    pub fn start_services(&self) -> io::Result<()> {
        for side in [&self.shop, &self.payments] {
            let socket = side.service.try_clone()?;
            socket.set_nonblocking(true)?;
            let socket = tokio::net::TcpListener::from_std(socket)?;
            let service = Arc::new(Service { name: side.name });
            drop(task::spawn("demo-service", serve(socket, service)));
        }
        Ok(())
    }

    /// What to try.
    #[must_use]
    pub fn intro(&self) -> String {
        let Self { shop, payments, .. } = self;
        let file = self.config_of(shop).display().to_string();
        let folder = self.folder.display();
        let (out, into, admin) = (shop.outbound, payments.inbound, shop.admin);
        format!(
            "\
Two services, `shop` and `payments`, and a proxy beside each:

  you, as shop -> shop's proxy {out} -> (mutual TLS) -> payments' proxy {into} -> payments

Each proxy has a certificate of an authority made for this demo; keys and all are in {folder}, yours only, and go
with the demo.

Ask payments; it answers with what it saw, in x-forwarded-client-cert also who called:

  curl http://{out}/v1/charges -H 'host: payments'

The same over HTTP/2, a route by header, an answer of the proxy itself, and a host that nobody routes:

  curl --http2-prior-knowledge http://{out}/v1/charges -H 'host: payments'
  curl http://{out}/v1/charges -H 'host: payments' -H 'x-canary: true'
  curl -i http://{out}/teapot -H 'host: payments'
  curl -i http://{out}/ -H 'host: nobody'

Payments' proxy lets in nobody but shop: not plaintext, not without a certificate, and a certificate of another
service only as far as the answer 403:

  curl -i http://{into}/v1/charges
  curl -ik https://{into}/v1/charges
  curl -ik https://{into}/v1/charges --cert {folder}/{STRANGER}.pem --key {folder}/{STRANGER}.key

And the other way, shop asked by payments:

  curl http://{back}/cart -H 'host: shop'

What runs, and how it is doing (the other proxy: {other_admin}):

  curl http://{admin}/config
  curl http://{admin}/clusters
  curl http://{admin}/certs
  curl http://{admin}/metrics

Change {file} and save it: it takes effect at once, or says why not.
Why a request goes where it goes:

  outrigger explain --config {file} http://payments/v1/charges

Ctrl-C ends the demo.
",
            back = payments.outbound,
            other_admin = payments.admin,
        )
    }

    /// Asks payments once, through both proxies.
    pub async fn ask(&self) -> Report {
        match tokio::time::timeout(ASK_LIMIT, self.ask_payments()).await {
            Ok(Ok(reply)) => {
                // Payments was told by its proxy who called: the hop between the proxies was mutual TLS.
                let came = reply.starts_with("HTTP/1.1 200 ")
                    && reply.contains("\"service\": \"payments\"")
                    && reply.contains("/ns/demo/sa/shop");
                if came { Report::success(reply) } else { Report { out: reply, err: String::new(), code: 1 } }
            }
            Ok(Err(error)) => Report::failure(format!("error: the request failed: {error}\n")),
            Err(_) => Report::failure(format!("error: no answer within {ASK_LIMIT:?}\n")),
        }
    }

    async fn ask_payments(&self) -> io::Result<String> {
        let mut stream = TcpStream::connect(self.shop.outbound).await?;
        stream.write_all(b"GET /v1/charges HTTP/1.1\r\nhost: payments\r\nconnection: close\r\n\r\n").await?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await?;
        Ok(reply)
    }

    fn config_of(&self, side: &Side) -> PathBuf {
        self.folder.join(format!("{}.yaml", side.name))
    }
}

/// The folder is the demo's own, and goes with it.
impl Drop for Demo {
    fn drop(&mut self) {
        for service in [self.shop.name, self.payments.name, STRANGER, "bundle"] {
            for kind in ["yaml", "pem", "key"] {
                // One that is not there, or that somebody removed already, is fine.
                let _ = fs::remove_file(self.folder.join(format!("{service}.{kind}")));
            }
        }
        // An editor may have left files of its own; then the folder stays.
        let _ = fs::remove_dir(&self.folder);
    }
}

/// A new folder for its owner only. The temporary folder is everybody's: one that is there already may be a trap.
fn make_folder() -> io::Result<PathBuf> {
    let process = std::process::id();
    let mut taken = io::ErrorKind::AlreadyExists.into();
    for attempt in 0..100 {
        let folder = std::env::temp_dir().join(format!("outrigger-dev-{process}-{attempt}"));
        match DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => taken = error,
            Err(error) => return Err(error),
        }
    }
    Err(taken)
}

/// A service with a certificate that nobody lets in.
const STRANGER: &str = "stranger";

impl Side {
    fn choose(name: &'static str, base: u16) -> io::Result<Self> {
        let service = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        // Held until all are chosen, so that no two are the same.
        let held = [base, base + 1, base + 6].map(bind_near);
        let [admin, outbound, inbound] = held;
        Ok(Self {
            name,
            admin: admin?.local_addr()?,
            outbound: outbound?.local_addr()?,
            inbound: inbound?.local_addr()?,
            service,
        })
    }

    /// `caller` is the identity of the other side.
    fn configuration(&self, other: &Self, folder: &str, caller: &str, requests: Requests) -> io::Result<String> {
        let Self { name, admin, outbound, inbound, service } = self;
        let (other_name, other_inbound) = (other.name, other.inbound);
        let service = service.local_addr()?;
        let log = match requests {
            Requests::Shown => "stdout",
            Requests::Hidden => "off",
        };
        Ok(format!(
            r#"# The proxy beside `{name}`. Save a change: it takes effect at once.
node: {{ id: {name}-1, service: {name} }}
admin: {{ address: "{admin}" }}
accessLog: {log}
workers: 1
drain: {{ acceptFor: 0s, deadline: 1s }}

# Who this proxy is, and whom it believes. Files that are replaced take effect at once.
identity:
  certificate: "{folder}/{name}.pem"
  privateKey: "{folder}/{name}.key"
  trustBundle: "{folder}/bundle.pem"

listeners:
  # What {name} asks others goes through here.
  - {{ name: outbound, bind: "{outbound}", routes: outbound }}
  # What others ask {name} comes through here: over mutual TLS only, and only from {other_name}.
  - name: inbound
    bind: "{inbound}"
    routes: inbound
    tls: {{ mode: strict }}
    clientCertHeader: set
    authorization: inbound

authorization:
  inbound:
    default: deny
    rules:
      - name: {other_name}
        action: allow
        from: [{{ identities: ["{caller}"] }}]

routes:
  outbound:
    - hostnames: [{other_name}]
      rules:
        - name: teapot
          matches: [{{ path: {{ prefix: /teapot }} }}]
          filters: [{{ directResponse: {{ status: 418, body: "short and stout\n" }} }}]
        - name: canary
          matches: [{{ headers: [{{ name: x-canary, exact: "true" }}] }}]
          filters: [{{ requestHeaders: {{ set: {{ x-version: canary }} }} }}]
          backendRefs: [{{ cluster: {other_name} }}]
        - name: rest
          timeouts: {{ request: 5s }}
          retry: {{ attempts: 2, on: [connect-failure, refused-stream, gateway-error] }}
          backendRefs: [{{ cluster: {other_name} }}]
  inbound:
    - rules:
        - name: app
          backendRefs: [{{ cluster: app }}]

clusters:
  # The proxy beside {other_name}; proxies speak HTTP/2 over mutual TLS to each other.
  {other_name}:
    protocol: http2
    tls: {{ peerIdentities: ["{caller}"] }}
    endpoints: ["{other_inbound}"]
  app: {{ endpoints: ["{service}"] }}
"#
        ))
    }
}

/// The port itself, or any that is free. Bound without sharing, so that a proxy that runs already is noticed.
fn bind_near(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
}

/// How long the one request of `--once` may take.
const ASK_LIMIT: Duration = Duration::from_secs(10);

/// A demo service: answers with what it saw.
#[derive(Debug)]
struct Service {
    name: &'static str,
}

async fn serve(socket: tokio::net::TcpListener, service: Arc<Service>) {
    let drain = Drain::default();
    loop {
        // A failure concerns one caller or passes; the demo goes on.
        let Ok((stream, _)) = socket.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let options = ServerOptions {
            max_head_bytes: 64 * 1024,
            max_headers: 100,
            max_concurrent_streams: 100,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(600),
            retire_at: None,
            scheme: Scheme::HTTP,
            drain: drain.watch(),
        };
        drop(task::spawn("demo-connection", h1::serve(Io::tcp(stream), Arc::clone(&service), options)));
    }
}

impl Handler for Service {
    type Body = Body;

    async fn handle(&self, request: Request, _: &dyn Interim) -> Response<Body> {
        let Request { head, mut body, .. } = request;
        let received = count_bytes(&mut body).await;
        let mut headers = BTreeMap::<&str, String>::new();
        for (name, value) in &head.headers {
            let text = String::from_utf8_lossy(value.as_bytes());
            let line = headers.entry(name.as_str()).or_default();
            // Writing to a string cannot fail.
            let _ = write!(line, "{}{text}", if line.is_empty() { "" } else { ", " });
        }
        let seen = json!({
            "service": self.name,
            "method": head.method.as_str(),
            "authority": head.authority.map(|authority| authority.to_string()),
            "path": head.path.as_str(),
            "headers": headers,
            "bodyBytes": received,
        });
        json_response(StatusCode::OK, format!("{seen:#}\n"))
    }

    fn refuse(&self, refusal: Refusal) -> Response<Body> {
        json_response(refusal.status, format!("{:#}\n", json!({ "refused": refusal.detail })))
    }
}

/// Reads a body to its end; a broken one counts as far as it came.
async fn count_bytes(body: &mut Body) -> usize {
    use crate::codec::{Frame, PollBody as _};
    let mut count = 0;
    while let Some(Ok(frame)) = std::future::poll_fn(|cx| body.poll_frame(cx)).await {
        if let Frame::Data(data) = frame {
            count += data.len();
        }
    }
    count
}

fn json_response(status: StatusCode, text: String) -> Response<Body> {
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    Response { head: ResponseHead { status, headers }, body: Body::Full(Bytes::from(text)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_config::load;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_configurations_are_valid_and_gone_afterwards() {
        let demo = Demo::prepare(Requests::Shown).expect("prepared");
        let configs = demo.configs();
        for path in &configs {
            let text = fs::read_to_string(path).expect("written");
            let loaded = load(&path.display().to_string(), &text).unwrap_or_else(|e| panic!("{e}"));
            assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
        }
        let folder = demo.folder.clone();
        let mode = |path: &std::path::Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700);
        for entry in fs::read_dir(&folder).expect("a folder") {
            assert_eq!(mode(&entry.expect("an entry").path()), 0o600);
        }
        drop(demo);
        assert!(!folder.exists());
    }

    #[test]
    fn a_taken_port_is_replaced_by_a_free_one() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = taken.local_addr().expect("an address").port();
        let other = bind_near(port).expect("another port").local_addr().expect("an address").port();
        assert_ne!(other, port);
    }
}
