//! Talks to the API: one request on a connection of its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::uri::Scheme;
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::api::wire::ErrorBody;
use crate::tls::provider;

/// Bytes of an answer.
const MAX_ANSWER: usize = 256 * 1024 * 1024;
/// From the name to a connection that TLS is done on.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the API is, and who asks.
#[derive(Clone, Default)]
pub struct Settings {
    /// `http://127.0.0.1:15014`, or `https://…`.
    pub server: String,
    /// A bearer token.
    pub token: Option<String>,
    /// PEM: the roots that the server's certificate is verified against.
    pub ca: Option<PathBuf>,
    /// PEM: a client certificate and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// The name that the server's certificate must have (default: the host of `server`).
    pub server_name: Option<String>,
}

/// Talks to an API.
#[derive(Clone)]
pub struct Client {
    uri: Uri,
    token: Option<HeaderValue>,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// Why there is no answer, or none that was wanted.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// What was said of the server or the caller is wrong.
    #[error("{0}")]
    Settings(String),
    /// The server cannot be reached.
    #[error("{server} cannot be reached: {reason}")]
    Unreachable {
        /// It.
        server: String,
        /// Why.
        reason: String,
    },
    /// The server refused.
    #[error("{}", .0.message)]
    Refused(ErrorBody),
    /// The answer cannot be understood.
    #[error("the answer of the server cannot be understood: {0}")]
    Answer(String),
}

impl Client {
    /// For a server. Reads the files that are named.
    ///
    /// # Errors
    /// [`ClientError::Settings`].
    pub fn new(settings: &Settings) -> Result<Self, ClientError> {
        let wrong = |message: String| ClientError::Settings(message);
        let Settings { server, token, ca, certificate, server_name } = settings;
        let text = if server.contains("://") { server.clone() } else { format!("http://{server}") };
        let uri: Uri = text.parse().map_err(|_| wrong(format!("`{server}` is not the URL of a server")))?;
        let host = uri.host().ok_or_else(|| wrong(format!("`{server}` names no host")))?;
        let secure = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(wrong(format!("`{server}` begins neither with http:// nor with https://"))),
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let local = bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if !secure && !local && token.is_some() {
            return Err(wrong(format!("a token is sent to {host} with https:// only")));
        }
        let token = token.as_ref().map(|token| {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
                .map_err(|_| wrong("the token holds characters that no token has".to_owned()))?;
            value.set_sensitive(true);
            Ok(value)
        });
        let tls = if secure {
            let name = server_name.clone().unwrap_or_else(|| bare.to_owned());
            let name = ServerName::try_from(name.clone()).map_err(|_| wrong(format!("`{name}` is not a name")))?;
            Some((Arc::new(tls(ca.as_ref(), certificate.as_ref())?), name))
        } else {
            None
        };
        Ok(Self { uri, token: token.transpose()?, tls })
    }

    /// Asks for something.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        read(&self.send(Method::GET, path, Bytes::new()).await?)
    }

    /// Sends something.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| ClientError::Settings(error.to_string()))?;
        read(&self.send(Method::POST, path, body.into()).await?)
    }

    /// Removes something.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        read(&self.send(Method::DELETE, path, Bytes::new()).await?)
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        let unreachable = |reason: String| ClientError::Unreachable { server: self.uri.to_string(), reason };
        let host = self.uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
        let mut request = Request::builder().method(method).uri(path).header(HOST, host);
        request = request.header(ACCEPT, "application/json").header(CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(Full::new(body)).map_err(|error| ClientError::Settings(error.to_string()))?;
        let io = timeout(CONNECT_TIMEOUT, self.connect()).await;
        let io = io
            .map_err(|_| unreachable("it took too long".to_owned()))?
            .map_err(|error| unreachable(error.to_string()))?;
        let failed = |error: hyper::Error| unreachable(error.to_string());
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(failed)?;
        let driving = tokio::spawn(connection);
        let response = sender.send_request(request).await;
        let result = match response {
            Ok(response) => {
                let status = response.status();
                Limited::new(response.into_body(), MAX_ANSWER).collect().await.map(|body| (status, body.to_bytes()))
            }
            Err(error) => Err(error.into()),
        };
        driving.abort();
        let (status, body) = result.map_err(|error| unreachable(error.to_string()))?;
        if status.is_success() { Ok(body) } else { Err(refused(status, &body)) }
    }

    async fn connect(&self) -> std::io::Result<Box<dyn Io>> {
        let host = self.uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let port = self.uri.port_u16().unwrap_or(if self.tls.is_some() { 443 } else { 80 });
        let tcp = TcpStream::connect((host, port)).await?;
        tcp.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Box::new(tcp)),
            Some((config, name)) => {
                let connector = TlsConnector::from(Arc::clone(config));
                Ok(Box::new(connector.connect(name.clone(), tcp).await?))
            }
        }
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|error| ClientError::Answer(error.to_string()))
}

fn refused(status: StatusCode, body: &[u8]) -> ClientError {
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(body) => ClientError::Refused(body),
        Err(_) => ClientError::Answer(format!("its status is {status}, and its body is not one of this API")),
    }
}

fn tls(ca: Option<&PathBuf>, certificate: Option<&(PathBuf, PathBuf)>) -> Result<ClientConfig, ClientError> {
    let ca = ca.ok_or_else(|| {
        ClientError::Settings("https:// needs --ca: the roots of the server's certificate".to_owned())
    })?;
    let file =
        |path: &PathBuf, error: &dyn std::fmt::Display| ClientError::Settings(format!("{}: {error}", path.display()));
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(ca).map_err(|error| file(ca, &error))? {
        roots.add(root.map_err(|error| file(ca, &error))?).map_err(|error| file(ca, &error))?;
    }
    if roots.is_empty() {
        return Err(file(ca, &"there is no certificate in it"));
    }
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| ClientError::Settings(error.to_string()))?
        .with_root_certificates(roots);
    let Some((chain, key)) = certificate else { return Ok(builder.with_no_client_auth()) };
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(chain).map_err(|error| file(chain, &error))?.collect();
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| file(key, &error))?;
    builder
        .with_client_auth_cert(certificates.map_err(|error| file(chain, &error))?, private)
        .map_err(|error| file(chain, &error))
}
