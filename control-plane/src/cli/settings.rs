//! Where the API is, and who asks: from arguments, then the environment, then `~/.config/outrigger/control.yaml`.
//!
//! ```yaml
//! server: https://control.example:15014
//! tokenFile: /home/me/.config/outrigger/token
//! ca: /home/me/.config/outrigger/bundle.pem
//! serverName: control.example
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use outrigger_config::language::{Document, Sink};

use super::CommandError;
use super::args::ServerArgs;
use super::client::{Client, Settings};

/// Where the API is when nobody says.
const SERVER: &str = "http://127.0.0.1:15014";
const KEYS: [&str; 4] = ["server", "tokenFile", "ca", "serverName"];

/// A client for the arguments.
pub(super) fn client(args: &ServerArgs) -> Result<Client, CommandError> {
    let file = home_config().filter(|path| path.is_file()).map(|path| read(&path)).transpose()?.unwrap_or_default();
    let ServerArgs { server, token, token_file, ca, server_name, certificate, key } = args.clone();
    let token = match (token, token_file) {
        (Some(token), _) => Some(token),
        (None, Some(path)) => Some(read_token(&path)?),
        // A client certificate goes instead of a token, not beside one.
        (None, None) if certificate.is_some() => None,
        (None, None) => file.token_file.as_deref().map(read_token).transpose()?,
    };
    let settings = Settings {
        server: server.or(file.server).unwrap_or_else(|| SERVER.to_owned()),
        token,
        ca: ca.or(file.ca),
        certificate: certificate.zip(key),
        server_name: server_name.or(file.server_name),
    };
    Ok(Client::new(&settings)?)
}

#[derive(Default)]
struct FileSettings {
    server: Option<String>,
    token_file: Option<PathBuf>,
    ca: Option<PathBuf>,
    server_name: Option<String>,
}

fn home_config() -> Option<PathBuf> {
    let folder = match std::env::var_os("XDG_CONFIG_HOME").filter(|folder| !folder.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".config"),
    };
    Some(folder.join("outrigger/control.yaml"))
}

fn read(path: &Path) -> Result<FileSettings, CommandError> {
    let shown = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|error| CommandError::Other(format!("{shown}: {error}")))?;
    let sink = Sink::of_part(shown.as_str().into(), &text, 0);
    let mut settings = FileSettings::default();
    if let Some(document) = Document::parse(&sink) {
        let root = document.root();
        for (key, span) in root.keys() {
            if !KEYS.contains(&key) {
                sink.error(span, format!("unknown key `{key}`"), format!("there are {}", KEYS.join(", ")));
            }
        }
        let value = |key: &str| root.get(key).and_then(|value| value.text()).map(str::to_owned);
        settings = FileSettings {
            server: value("server"),
            token_file: value("tokenFile").map(PathBuf::from),
            ca: value("ca").map(PathBuf::from),
            server_name: value("serverName"),
        };
    }
    if sink.has_errors() { Err(CommandError::Other(sink.into_diagnostics().to_string())) } else { Ok(settings) }
}

/// The token in a file.
pub(super) fn read_token(path: &Path) -> Result<String, CommandError> {
    let text = fs::read_to_string(path);
    let text = text.map_err(|error| CommandError::Other(format!("the token in {}: {error}", path.display())))?;
    Ok(text.trim().to_owned())
}
