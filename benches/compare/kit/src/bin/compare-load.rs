//! `compare-load`: load that h2load cannot make, because every request needs another host or path, or a client certificate.
//!
//! ```text
//! compare-load routes ADDRESS CONNECTIONS REQUESTS COUNT HOST PATH        HTTP/1.1; {} in HOST or PATH is a number below COUNT
//! compare-load http2 ADDRESS CONNECTIONS STREAMS REQUESTS PKI             HTTP/2 over mutual TLS
//! compare-load http3 ADDRESS CONNECTIONS STREAMS REQUESTS PKI             HTTP/3 with client certificates
//! compare-load tcp|websocket ADDRESS CONNECTIONS MESSAGES                 messages there and back
//! compare-load full|resumed ADDRESS CONNECTIONS REQUESTS GROUP PKI        one mutual TLS connection for every request
//! compare-load hold-http1|hold-http2 ADDRESS CONNECTIONS PKI              idle mutual TLS connections, until it is ended
//! compare-load pki DIRECTORY                                             makes the certificates (PKI in the others)
//! ```
//!
//! Prints one line of JSON; a response counts as failed unless its status is 200 and its body arrived whole. One thread.

use std::io::Write as _;
use std::path::Path;
use std::str::FromStr;

use anyhow::Context as _;
use outrigger_compare_kit::load::{handshakes, hold, http2, http3, messages, routes};
use outrigger_compare_kit::pki;
use outrigger_compare_kit::tls::Group;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["pki", directory] = arguments.as_slice() {
        return pki::write(Path::new(directory));
    }
    let report = tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(&arguments))?;
    writeln!(std::io::stdout(), "{report}")?;
    Ok(())
}

async fn run(arguments: &[&str]) -> anyhow::Result<String> {
    match *arguments {
        ["routes", address, connections, requests, count, host, path] => {
            routes::run(routes::Routes {
                address: parsed("ADDRESS", address)?,
                connections: positive("CONNECTIONS", connections)?,
                requests: parsed("REQUESTS", requests)?,
                count: positive("COUNT", count)?,
                host: host.to_owned(),
                path: path.to_owned(),
            })
            .await
        }
        ["http2", address, connections, streams, requests, pki] => {
            http2::run(http2::Http2 {
                address: parsed("ADDRESS", address)?,
                connections: positive("CONNECTIONS", connections)?,
                streams: positive("STREAMS", streams)?,
                requests: parsed("REQUESTS", requests)?,
                pki: pki.into(),
            })
            .await
        }
        ["http3", address, connections, streams, requests, pki] => {
            http3::run(http3::Http3 {
                address: parsed("ADDRESS", address)?,
                connections: positive("CONNECTIONS", connections)?,
                streams: positive("STREAMS", streams)?,
                requests: parsed("REQUESTS", requests)?,
                pki: pki.into(),
            })
            .await
        }
        [kind @ ("tcp" | "websocket"), address, connections, messages] => {
            messages::run(messages::Messages {
                address: parsed("ADDRESS", address)?,
                connections: positive("CONNECTIONS", connections)?,
                messages: parsed("MESSAGES", messages)?,
                websocket: kind == "websocket",
            })
            .await
        }
        [kind @ ("full" | "resumed"), address, connections, requests, group, pki] => {
            handshakes::run(handshakes::Handshakes {
                address: parsed("ADDRESS", address)?,
                connections: positive("CONNECTIONS", connections)?,
                requests: parsed("REQUESTS", requests)?,
                resumed: kind == "resumed",
                group: named(group)?,
                pki: pki.into(),
            })
            .await
        }
        [kind @ ("hold-http1" | "hold-http2"), address, connections, pki] => {
            hold::run(hold::Hold {
                address: parsed("ADDRESS", address)?,
                connections: positive("CONNECTIONS", connections)?,
                http2: kind == "hold-http2",
                pki: pki.into(),
            })
            .await?;
            Ok(String::new())
        }
        _ => anyhow::bail!(
            "usage: compare-load routes|http2|http3|tcp|websocket|full|resumed|hold-http1|hold-http2|pki ARGUMENTS"
        ),
    }
}

fn parsed<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(name: &str, text: &str) -> anyhow::Result<T> {
    text.parse().with_context(|| format!("{name}: {text}"))
}

fn named(group: &str) -> anyhow::Result<Group> {
    match group {
        "X25519" => Ok(Group::X25519),
        "X25519MLKEM768" => Ok(Group::X25519MlKem768),
        _ => anyhow::bail!("no group is called {group}"),
    }
}

fn positive(name: &str, text: &str) -> anyhow::Result<usize> {
    let number = parsed(name, text)?;
    anyhow::ensure!(number > 0, "{name} starts at 1");
    Ok(number)
}
