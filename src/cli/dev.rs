//! `outrigger dev [DIR]`: a mesh on this machine from a directory of manifests. The control plane watches them; each
//! workload on a loopback address gets a proxy, and a demo service where nothing serves for it yet. What is here is the
//! plan, the services and the words; control plane and proxies are started by `app.rs`.

mod folder;
mod service;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::spiffe::TrustDomain;
use outrigger_control::engine::Found;
use outrigger_control::manifest::{self, Mesh, Object, Workload};
use outrigger_control::peer::WorkloadKey;
use outrigger_control::serve;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use self::folder::{Folder, Ports, write_new};
use self::service::Service;
use super::Report;
use crate::base::task;

/// The mesh before it runs: folders are there, ports of the control plane are chosen.
#[derive(Debug)]
pub struct Dev {
    folder: Folder,
    trust_domain: TrustDomain,
    grpc: SocketAddr,
    api: SocketAddr,
    requests: Requests,
    _ports: Ports,
}

/// A workload of this machine: its proxy runs here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// Its name.
    pub key: WorkloadKey,
    account: Arc<str>,
    outbound: SocketAddr,
    inbound: Vec<SocketAddr>,
    applications: Vec<SocketAddr>,
    labels: BTreeMap<Arc<str>, Arc<str>>,
}

/// Whether each request is shown as it passes a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requests {
    /// On standard output.
    Shown,
    /// Not.
    Hidden,
}

/// What a proxy of this machine is started with.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    /// Its configuration.
    pub text: String,
    /// Where it keeps what it must not lose.
    pub state: PathBuf,
}

impl Dev {
    /// A mesh from a directory, or from the demo's own manifests, which go away with it.
    ///
    /// # Errors
    /// When the directory cannot be read, a folder not be made, or no port be had.
    pub fn prepare(directory: Option<PathBuf>, requests: Requests) -> io::Result<Self> {
        let ports = Ports::choose()?;
        let folder = match directory {
            Some(directory) => Folder::of(directory)?,
            None => Folder::demo(&ports)?,
        };
        let documents = Found::in_directory(&folder.manifests)?.documents();
        let trust_domain = manifest::load(&documents, None).mesh.trust_domain();
        let at = |usual: SocketAddr| SocketAddr::new(usual.ip(), ports.of(usual.port()));
        let (grpc, api) = (at(serve::GRPC_ADDRESS), at(serve::API_ADDRESS));
        Ok(Self { folder, trust_domain, grpc, api, requests, _ports: ports })
    }

    /// The control plane for it.
    #[must_use]
    pub fn control_plane(&self) -> serve::Options {
        serve::Options {
            directory: Some(self.folder.manifests.clone()),
            grpc: self.grpc,
            api: self.api,
            trust_domain: self.trust_domain.clone(),
            ..serve::Options::new(self.folder.data.clone())
        }
    }

    /// The bootstrap of a workload's proxy. The token is put where the proxy looks for it.
    ///
    /// # Errors
    /// When the state folder cannot be written.
    pub fn bootstrap(&self, local: &Local, token: &str, bundle: &Path) -> io::Result<Bootstrap> {
        let state = self.folder.data.join("proxies").join(local.key.to_string().replace('/', "."));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&state)?;
        let token_file = state.join("join-token");
        if let Err(error) = fs::remove_file(&token_file)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        write_new(&token_file, token)?;
        let log = if self.requests == Requests::Shown { "stdout" } else { "off" };
        let text = format!(
            "\
node: {{ id: {name}, service: {service} }}
admin: {{ address: '127.0.0.1:0' }}
accessLog: {log}
workers: 1
controlPlane:
  servers: ['{grpc}']
  serverIdentity: 'spiffe://{domain}/ns/outrigger/sa/control'
  trustBundle: {bundle}
  joinToken: {{ file: {token} }}
  workload: {key}
",
            name = local.key.name,
            service = local.account,
            grpc = self.grpc,
            domain = self.trust_domain.as_str(),
            bundle = quoted(bundle)?,
            token = quoted(&token_file)?,
            key = local.key,
        );
        Ok(Bootstrap { text, state })
    }

    /// What to try. `proxies` are the workloads with the admin servers of their proxies, `served` the services that were
    /// started here.
    #[must_use]
    pub fn intro(&self, proxies: &[(Local, Option<SocketAddr>)], served: &[SocketAddr]) -> String {
        let mut out = String::new();
        let (api, grpc, manifests) = (self.api, self.grpc, self.folder.manifests.display());
        // Writing to a string cannot fail.
        let _ = write!(
            out,
            "A mesh on this machine, from the manifests in {manifests}\n\n  \
             control plane        gRPC {grpc}, REST http://{api}\n"
        );
        for (local, admin) in proxies {
            let inbound: Vec<String> = local.inbound.iter().map(ToString::to_string).collect();
            let admin = admin.map_or_else(|| "none".to_owned(), |admin| format!("http://{admin}"));
            let _ = writeln!(
                out,
                "  {:<20} sends to {}, others reach it at {} (mutual TLS); admin {admin}",
                local.key.to_string(),
                local.outbound,
                inbound.join(", "),
            );
            for application in &local.applications {
                let what =
                    if served.contains(application) { "a demo service" } else { "already served on this machine" };
                let _ = writeln!(out, "  {:<20} its application {application}: {what}", "");
            }
        }
        if let Some((caller, _)) = self.caller(proxies) {
            let outbound = caller.outbound;
            let to = self.callee(proxies, caller);
            let _ = write!(
                out,
                "\n\
                 Ask {to} as {caller}; it answers with what it saw, also who called:\n\n  \
                 curl http://{outbound}/v1/charges -H 'host: {to}'\n",
                caller = caller.account,
            );
            if self.folder.is_demo() {
                let inbound = proxies
                    .iter()
                    .find(|(local, _)| *local.account == *to)
                    .and_then(|(local, _)| local.inbound.first());
                let _ = write!(
                    out,
                    "\n\
                     The same over HTTP/2, a route by header, a redirect, and a host that nobody routes:\n\n  \
                     curl --http2-prior-knowledge http://{outbound}/v1/charges -H 'host: {to}'\n  \
                     curl http://{outbound}/v1/charges -H 'host: {to}' -H 'x-canary: true'\n  \
                     curl -i http://{outbound}/old/charges -H 'host: {to}'\n  \
                     curl -i http://{outbound}/ -H 'host: nobody'\n"
                );
                if let Some(inbound) = inbound {
                    let _ = write!(
                        out,
                        "\nPayments' proxy lets in nobody without a certificate of the mesh:\n\n  \
                         curl -ik https://{inbound}/v1/charges\n"
                    );
                }
            }
        }
        let token = self.folder.data.join("admin.token");
        let _ = write!(
            out,
            "\n\
             Change a manifest and save it: it takes effect at once, or says why not. Who runs what, and why:\n\n  \
             export OUTRIGGER_CONTROL_SERVER=http://{api} OUTRIGGER_CONTROL_TOKEN_FILE={token}\n  \
             outrigger control status\n  \
             outrigger control history\n",
            token = token.display(),
        );
        if let Some((caller, _)) = self.caller(proxies) {
            let to = self.callee(proxies, caller);
            let _ = writeln!(out, "  outrigger control explain {} http://{to}/v1/charges", caller.key);
        }
        out.push_str("\nCtrl-C ends it.\n");
        out
    }

    /// Asks through the proxies once.
    pub async fn ask(&self, proxies: &[(Local, Option<SocketAddr>)]) -> Report {
        let Some((caller, _)) = self.caller(proxies) else {
            return Report::failure("error: no workload calls another one\n".to_owned());
        };
        let (outbound, to) = (caller.outbound, self.callee(proxies, caller));
        match tokio::time::timeout(ASK_LIMIT, ask(outbound, &to)).await {
            Ok(Ok(reply)) => {
                // It was told by its proxy who called: the hop between the proxies was mutual TLS.
                let identity = format!("/ns/{}/sa/{}", caller.key.namespace, caller.account);
                let came = reply.starts_with("HTTP/1.1 200 ") && reply.contains(&identity);
                if came { Report::success(reply) } else { Report { out: reply, err: String::new(), code: 1 } }
            }
            Ok(Err(error)) => Report::failure(format!("error: the request failed: {error}\n")),
            Err(_) => Report::failure(format!("error: no answer within {ASK_LIMIT:?}\n")),
        }
    }

    /// Who asks in the examples: the demo's shop, else the first one.
    fn caller<'a>(&self, proxies: &'a [(Local, Option<SocketAddr>)]) -> Option<&'a (Local, Option<SocketAddr>)> {
        let shop = proxies.iter().find(|(local, _)| self.folder.is_demo() && &*local.account == "shop");
        shop.or(proxies.first().filter(|_| proxies.len() > 1))
    }

    /// Who is asked.
    fn callee(&self, proxies: &[(Local, Option<SocketAddr>)], caller: &Local) -> Arc<str> {
        let other = proxies.iter().find(|(local, _)| local.key != caller.key);
        other.map_or_else(|| Arc::clone(&caller.account), |(local, _)| service_of(local))
    }
}

/// The workloads whose proxies run on this machine, by name.
#[must_use]
pub fn locals(mesh: &Mesh) -> BTreeMap<WorkloadKey, Local> {
    mesh.workloads()
        .filter(|(_, workload)| workload.address.is_loopback())
        .filter_map(|(object, workload)| local(object, workload))
        .map(|local| (local.key.clone(), local))
        .collect()
}

fn local(object: &Object, workload: &Workload) -> Option<Local> {
    let inbound = |port: u16| SocketAddr::new(workload.address, port);
    Some(Local {
        key: WorkloadKey::new(object.id.namespace(), &object.id.name.name)?,
        account: Arc::clone(&workload.service_account),
        outbound: workload.outbound,
        inbound: workload.ports.iter().map(|port| inbound(port.inbound)).collect(),
        applications: workload.ports.iter().map(|port| port.application).collect(),
        labels: object.labels.clone(),
    })
}

/// The name by which it is most likely called.
fn service_of(local: &Local) -> Arc<str> {
    local.labels.get("app").map_or_else(|| Arc::clone(&local.account), Arc::clone)
}

/// Starts a demo service for every application of a workload whose address is free on this machine. Gives the addresses
/// that are served here now.
///
/// # Errors
/// When a socket cannot be handed to the runtime.
pub fn start_services(local: &Local) -> io::Result<Vec<SocketAddr>> {
    let mut served = Vec::new();
    for &application in &local.applications {
        let is_here = matches!(application.ip(), IpAddr::V4(Ipv4Addr::LOCALHOST)) || application.ip().is_loopback();
        let Some(socket) = is_here.then(|| TcpListener::bind(application).ok()).flatten() else { continue };
        socket.set_nonblocking(true)?;
        let socket = tokio::net::TcpListener::from_std(socket)?;
        let service = Arc::new(Service { name: service_of(local), workload: local.key.to_string() });
        drop(task::spawn("demo-service", service::serve(socket, service)));
        served.push(application);
    }
    Ok(served)
}

async fn ask(outbound: SocketAddr, host: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(outbound).await?;
    let request = format!("GET /v1/charges HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await?;
    Ok(reply)
}

/// A path as a YAML string.
fn quoted(path: &Path) -> io::Result<String> {
    let text = path.to_str().ok_or_else(|| io::Error::other(format!("{} is not UTF-8", path.display())))?;
    Ok(format!("'{}'", text.replace('\'', "''")))
}

/// How long the one request of `--once` may take.
const ASK_LIMIT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn mesh_of(folder: &Path) -> Arc<Mesh> {
        let documents = Found::in_directory(folder).expect("listed").documents();
        let outcome = manifest::load(&documents, None);
        assert!(outcome.problems.is_empty(), "{:?}", outcome.problems);
        outcome.mesh
    }

    #[test]
    fn the_demo_is_a_mesh_of_two_local_workloads() {
        let dev = Dev::prepare(None, Requests::Hidden).expect("prepared");
        let locals = locals(&mesh_of(&dev.folder.manifests));
        let names: Vec<String> = locals.keys().map(ToString::to_string).collect();
        assert_eq!(names, ["demo/payments-1", "demo/shop-1"]);
    }

    #[test]
    fn a_bootstrap_is_a_valid_configuration_and_replaces_an_old_token() {
        let dev = Dev::prepare(None, Requests::Hidden).expect("prepared");
        let locals = locals(&mesh_of(&dev.folder.manifests));
        let local = locals.values().next().expect("a workload");
        for token in ["first", "second"] {
            let made = dev.bootstrap(local, token, Path::new("/tmp/it's a bundle.pem")).expect("written");
            let loaded = outrigger_config::load("bootstrap", &made.text).unwrap_or_else(|error| panic!("{error}"));
            assert!(loaded.control_plane.is_some() && loaded.warnings.is_empty(), "{}", loaded.warnings);
            assert_eq!(fs::read_to_string(made.state.join("join-token")).expect("there"), token);
        }
    }
}
