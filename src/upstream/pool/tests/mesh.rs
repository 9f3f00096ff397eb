//! A mesh of one trust domain on this machine: an authority, and both ends of a connection.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use outrigger_config::model::{
    CertificateFiles, ClientCertificate, ClientTrust, ClusterProtocol, ClusterTls, ClusterTlsMode, Config, Identity,
    ListenerProtocol, ListenerTls, Place, Target, TlsMode, TlsVersion,
};
use outrigger_config::spiffe::IdentityPattern;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::net::io::Io;
use crate::net::tls::{ClientTls, HandshakeError, Secrets, ServerTls, TlsInfo, TlsSet};

pub(in crate::upstream) struct Authority {
    root: CertifiedIssuer<'static, KeyPair>,
}

/// One end: its files, and the TLS that they make.
pub(in crate::upstream) struct End {
    /// Removed with it.
    _files: TempDir,
    config: Config,
    set: TlsSet,
}

impl Authority {
    pub(in crate::upstream) fn new() -> Self {
        let mut params = params("spiffe://mesh.test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        Self { root: CertifiedIssuer::self_signed(params, key).expect("a root") }
    }

    pub(in crate::upstream) fn pem(&self) -> String {
        self.root.pem()
    }

    /// The next material of a workload, issued here: its pools and sessions go on as far as they may.
    pub(in crate::upstream) fn end_after(&self, before: &End, workload: &str, bundle: &str) -> End {
        let mut end = self.end(workload, bundle);
        end.rebuild(&before.set);
        end
    }

    /// A workload, issued here, that believes those in `bundle`, all PEM.
    pub(in crate::upstream) fn end(&self, workload: &str, bundle: &str) -> End {
        let mut params = params(&format!("spiffe://mesh.test/{workload}"));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.root).expect("a certificate");
        let files = tempfile::tempdir().expect("a folder");
        fs::write(files.path().join("svid.pem"), certificate.pem()).expect("written");
        fs::write(files.path().join("svid.key"), key.serialize_pem()).expect("written");
        End::new(files, bundle)
    }
}

fn params(uri: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, uri);
    params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("ASCII"))];
    params.use_authority_key_identifier_extension = true;
    params
}

fn place() -> Place {
    Place { file: "test".into(), line: 1, column: 1 }
}

impl End {
    fn new(files: TempDir, bundle: &str) -> Self {
        let text = "listeners: [{ name: l, bind: 127.0.0.1:0, routes: r }]\n\
                    routes: { r: [{ rules: [{ backendRefs: [{ cluster: c }] }] }] }\n\
                    clusters: { c: { endpoints: [127.0.0.1:1] } }\n";
        let loaded = outrigger_config::load("test.yaml", text).expect("valid");
        let mut config = (*loaded.config).clone();
        let file = |name: &str| -> PathBuf { files.path().join(name) };
        config.identity = Some(Identity {
            certificate: CertificateFiles {
                certificate: file("svid.pem"),
                private_key: file("svid.key"),
                place: place(),
            },
            trust_bundle: file("bundle.pem"),
            federated_bundles: [].into(),
            revocation_lists: Vec::new(),
            proposed_trust_bundle: None,
            place: place(),
        });
        config.listeners[0].tls = Some(ListenerTls {
            mode: TlsMode::Strict,
            proposed_mode: None,
            certificates: Vec::new(),
            client_certificate: ClientCertificate::Required,
            client_trust: ClientTrust::Mesh,
            min_version: TlsVersion::V1_3,
            handshake_timeout: std::time::Duration::from_secs(10),
            max_handshakes: 100,
            passthrough: Vec::new(),
            place: place(),
        });
        let cluster = config.clusters.get_mut("c").expect("a cluster");
        cluster.tls = Some(ClusterTls {
            mode: ClusterTlsMode::Mutual {
                peer_identities: vec![IdentityPattern::parse("spiffe://mesh.test/*").expect("a pattern")],
            },
            sni: None,
            min_version: TlsVersion::V1_3,
            place: place(),
        });
        fs::write(file("bundle.pem"), bundle).expect("written");
        let mut end = Self { _files: files, config, set: TlsSet::default() };
        end.rebuild(&TlsSet::default());
        end
    }

    /// Its configuration with one endpoint.
    pub(in crate::upstream) fn config_towards(&self, address: SocketAddr) -> Config {
        let mut config = self.config.clone();
        let cluster = config.clusters.get_mut("c").expect("a cluster");
        cluster.protocol = ClusterProtocol::Http1;
        cluster.endpoints[0].target = Target::Address(address);
        config
    }

    pub(in crate::upstream) fn speaking(mut self, protocol: ListenerProtocol) -> Self {
        self.config.listeners[0].protocol = protocol;
        self.rebuild(&TlsSet::default());
        self
    }

    fn rebuild(&mut self, before: &TlsSet) {
        let secrets = Secrets::read(&self.config, &Secrets::default());
        let set = TlsSet::build(&self.config, &secrets, Some(before), SystemTime::now()).expect("good material");
        set.activate();
        self.set = set;
    }

    pub(in crate::upstream) fn server(&self) -> Arc<ServerTls> {
        Arc::clone(self.set.server("l").expect("TLS"))
    }

    pub(in crate::upstream) fn client(&self) -> Arc<ClientTls> {
        Arc::clone(self.set.client("c").expect("TLS"))
    }

    /// Accepts one connection.
    pub(in crate::upstream) async fn accept(&self, listener: &TcpListener) -> Result<(Io, TlsInfo), HandshakeError> {
        let (stream, _) = listener.accept().await.expect("a connection");
        self.server().accept(Io::tcp(stream)).await
    }
}
