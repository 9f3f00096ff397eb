//! `join`: a certificate for a program that does not get one itself.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use outrigger_xds::control::identity_client::IdentityClient;
use outrigger_xds::control::issue_request::Proof;
use outrigger_xds::control::{IssueRequest, IssueResponse};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use super::args::JoinArgs;
use super::{CommandError, Done, settings};
use crate::tls::provider;

const CERTIFICATE: &str = "svid.pem";
const KEY: &str = "svid.key";
const BUNDLE: &str = "bundle.pem";

pub(super) async fn join(args: JoinArgs) -> Result<Done, CommandError> {
    let token = match (&args.token, &args.token_file) {
        (Some(token), _) => Some(token.trim().to_owned()),
        (None, Some(path)) => Some(settings::read_token(path)?),
        (None, None) => None,
    };
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|error| other(&error))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(|error| other(&error))?;
    let request = IssueRequest {
        certificate_signing_request: request.der().to_vec(),
        workload: String::new(),
        proof: token.clone().map(Proof::JoinToken),
    };
    let channel = connect(&args, token.is_none()).await?;
    let issued = IdentityClient::new(channel).issue(request).await;
    let issued = issued.map_err(|status| CommandError::Other(format!("refused: {}", status.message())))?.into_inner();
    let IssueResponse { certificate_chain, trust_bundle, workload, renew_after } = issued;
    let out = &args.out;
    let wrong = |error: io::Error| CommandError::Other(format!("{}: {error}", out.display()));
    if !out.is_dir() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(out).map_err(wrong)?;
    }
    // The key last but for the certificate: a pair that does not fit yet is taken by nobody.
    write(&out.join(BUNDLE), &pem("CERTIFICATE", &trust_bundle)).map_err(wrong)?;
    write(&out.join(KEY), &key.serialize_pem()).map_err(wrong)?;
    write(&out.join(CERTIFICATE), &pem("CERTIFICATE", &certificate_chain)).map_err(wrong)?;
    let seconds = renew_after.map_or(0, |time| time.seconds);
    Ok(Done::ok(format!(
        "{workload}: wrote {CERTIFICATE}, {KEY} and {BUNDLE} to {}; renew in {seconds} s\n",
        out.display()
    )))
}

/// A channel over TLS. Without a token the certificate that is there proves who asks.
async fn connect(args: &JoinArgs, renews: bool) -> Result<Channel, CommandError> {
    let (host, port) = args
        .grpc
        .rsplit_once(':')
        .ok_or_else(|| CommandError::Other(format!("`{}` is not an address; the form is host:port", args.grpc)))?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port: u16 = port.parse().map_err(|_| CommandError::Other(format!("`{port}` is not a port")))?;
    let name = args.server_name.clone().unwrap_or_else(|| host.clone());
    let name =
        ServerName::try_from(name.clone()).map_err(|_| CommandError::Other(format!("`{name}` is not a name")))?;
    let connector = TlsConnector::from(Arc::new(tls(args, renews)?));
    let dial = tower::service_fn(move |_: Uri| {
        let (connector, name, host) = (connector.clone(), name.clone(), host.clone());
        async move {
            let tcp = TcpStream::connect((host.as_str(), port)).await?;
            Ok::<_, io::Error>(TokioIo::new(connector.connect(name, tcp).await?))
        }
    });
    // The address is dialled by the connector; this one only stands in `:authority`.
    let endpoint = Endpoint::from_static("http://outrigger-control");
    endpoint.connect_with_connector(dial).await.map_err(|error| {
        let mut reason = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(error) = source {
            reason = error.to_string();
            source = error.source();
        }
        CommandError::Other(format!("{} cannot be reached: {reason}", args.grpc))
    })
}

fn tls(args: &JoinArgs, renews: bool) -> Result<ClientConfig, CommandError> {
    let file = |path: &Path, error: &dyn std::fmt::Display| CommandError::Other(format!("{}: {error}", path.display()));
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(&args.ca).map_err(|error| file(&args.ca, &error))? {
        let root = root.map_err(|error| file(&args.ca, &error))?;
        roots.add(root).map_err(|error| file(&args.ca, &error))?;
    }
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| other(&error))?
        .with_root_certificates(roots);
    let mut config = if renews {
        let (chain, key) = (args.out.join(CERTIFICATE), args.out.join(KEY));
        let missing = "give a join token with --token or --token-file, or the certificate that is to be renewed";
        if !chain.is_file() {
            return Err(CommandError::Other(missing.to_owned()));
        }
        let certificates: Result<Vec<_>, _> =
            CertificateDer::pem_file_iter(&chain).map_err(|error| file(&chain, &error))?.collect();
        let private = PrivateKeyDer::from_pem_file(&key).map_err(|error| file(&key, &error))?;
        let certificates = certificates.map_err(|error| file(&chain, &error))?;
        builder.with_client_auth_cert(certificates, private).map_err(|error| file(&chain, &error))?
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn pem(label: &str, blocks: &[Vec<u8>]) -> String {
    let mut out = String::new();
    for block in blocks {
        out.push_str(&format!("-----BEGIN {label}-----\n"));
        let text = data_encoding::BASE64.encode(block);
        for line in text.as_bytes().chunks(64) {
            out.push_str(&String::from_utf8_lossy(line));
            out.push('\n');
        }
        out.push_str(&format!("-----END {label}-----\n"));
    }
    out
}

/// Writes a file for its owner alone: the old one or the new one is there, never half of one.
fn write(path: &Path, content: &str) -> io::Result<()> {
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

fn other(error: &dyn std::fmt::Display) -> CommandError {
    CommandError::Other(error.to_string())
}
