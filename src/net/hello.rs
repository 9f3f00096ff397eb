//! What a TLS client says first: the server name and the application protocols of a ClientHello (RFC 8446
//! section 4.1.2), read from the first bytes of a connection without speaking TLS. Pure; whatever comes in, it
//! ends, and it allocates no more than it was given.

use crate::base::limits;

/// The most that is looked at. A ClientHello has a few hundred bytes, with post-quantum key shares two thousand.
pub const MAX_BYTES: usize = limits::CLIENT_HELLO_BYTES;

/// What the first bytes of a connection are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peeked {
    /// A beginning of a ClientHello; with more bytes it will be known.
    Incomplete,
    /// No ClientHello, or one that breaks the rules, or a larger one than [`MAX_BYTES`].
    NotTls,
    /// A ClientHello.
    Hello(ClientHello),
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientHello {
    /// The server name (RFC 6066 section 3) in lower case, without a dot at the end.
    pub sni: Option<Box<str>>,
    /// The application protocols that it offers (RFC 7301), in its order.
    pub alpn: Vec<Box<[u8]>>,
}

/// Whether a connection that begins with these bytes is TLS: a handshake record of a version 3.x (SSL 3.0 to
/// TLS 1.3). `None` while it cannot be said.
#[must_use]
pub fn is_tls(bytes: &[u8]) -> Option<bool> {
    match bytes {
        [] | [HANDSHAKE] => None,
        [HANDSHAKE, 3, ..] => Some(true),
        _ => Some(false),
    }
}

/// Reads the first bytes of a connection.
#[must_use]
pub fn peek(bytes: &[u8]) -> Peeked {
    match is_tls(bytes) {
        None => return Peeked::Incomplete,
        Some(false) => return Peeked::NotTls,
        Some(true) => {}
    }
    let looked_at = &bytes[..bytes.len().min(MAX_BYTES)];
    match message(looked_at) {
        Ok(Some(body)) => read(&body).map_or(Peeked::NotTls, Peeked::Hello),
        Ok(None) if bytes.len() < MAX_BYTES => Peeked::Incomplete,
        Ok(None) | Err(Broken) => Peeked::NotTls,
    }
}

#[derive(Debug)]
struct Broken;

/// The body of the ClientHello, put together from the records that it is spread over; `None` while it is not
/// complete.
fn message(mut records: &[u8]) -> Result<Option<Vec<u8>>, Broken> {
    let mut handshake = Vec::new();
    loop {
        // The head of the message is checked as it comes, so that nonsense is not waited for.
        if handshake.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Err(Broken);
        }
        if let [_, high, middle, low, rest @ ..] = &handshake[..] {
            let len = usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low);
            if len > MAX_BYTES {
                return Err(Broken);
            }
            if rest.len() >= len {
                return Ok(Some(rest[..len].to_vec()));
            }
        }
        let (head, rest) = match records {
            [kind, major, _, high, low, rest @ ..] => ((*kind, *major, u16::from_be_bytes([*high, *low])), rest),
            [kind, ..] if *kind != HANDSHAKE => return Err(Broken),
            _ => return Ok(None),
        };
        let (HANDSHAKE, 3, len) = head else { return Err(Broken) };
        // RFC 8446 section 5.1: a fragment of a handshake message is not empty, and has at most 2^14 bytes.
        if len == 0 || len > 1 << 14 {
            return Err(Broken);
        }
        let len = usize::from(len);
        let present = rest.len().min(len);
        handshake.extend_from_slice(&rest[..present]);
        records = &rest[present..];
        if present < len {
            // What is there may be all of the message all the same: only the head is looked at once more.
            records = &[];
        }
    }
}

fn read(body: &[u8]) -> Option<ClientHello> {
    let mut fields = Fields(body);
    let version = fields.take(2)?;
    if version[0] != 3 {
        return None;
    }
    fields.take(32)?;
    let session = fields.vector8()?;
    let suites = fields.vector16()?;
    let compression = fields.vector8()?;
    if session.len() > 32 || suites.is_empty() || suites.len() % 2 != 0 || compression.is_empty() {
        return None;
    }
    let mut hello = ClientHello::default();
    if fields.0.is_empty() {
        // Before TLS 1.2 there need not be extensions.
        return Some(hello);
    }
    let mut extensions = Fields(fields.vector16()?);
    if !fields.0.is_empty() {
        return None;
    }
    let (mut name_seen, mut alpn_seen) = (false, false);
    while !extensions.0.is_empty() {
        let kind = u16::from_be_bytes(extensions.take(2)?.try_into().ok()?);
        let contents = extensions.vector16()?;
        match kind {
            // RFC 8446 section 4.2: never two of one kind. Of those that decide here it is checked.
            SERVER_NAME if std::mem::replace(&mut name_seen, true) => return None,
            ALPN if std::mem::replace(&mut alpn_seen, true) => return None,
            SERVER_NAME => hello.sni = server_name(contents)?,
            ALPN => hello.alpn = protocols(contents)?,
            _ => {}
        }
    }
    Some(hello)
}

fn server_name(contents: &[u8]) -> Option<Option<Box<str>>> {
    let mut outer = Fields(contents);
    let mut names = Fields(outer.vector16()?);
    let mut found = None;
    while !names.0.is_empty() {
        let kind = names.take(1)?[0];
        let name = names.vector16()?;
        if kind == HOST_NAME {
            if found.is_some() {
                return None;
            }
            found = Some(host_name(name)?);
        }
    }
    outer.0.is_empty().then_some(found)
}

/// Letters, digits, hyphens, dots, and underscores, which are forbidden in host names and common all the same.
fn host_name(name: &[u8]) -> Option<Box<str>> {
    let name = name.strip_suffix(b".").unwrap_or(name);
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let labels = name.split(|byte| *byte == b'.').all(|label| !label.is_empty() && label.len() <= 63);
    if name.len() > 253 || !labels || !name.iter().all(fits) {
        return None;
    }
    let name = std::str::from_utf8(name).ok()?;
    Some(name.to_ascii_lowercase().into())
}

fn protocols(contents: &[u8]) -> Option<Vec<Box<[u8]>>> {
    let mut outer = Fields(contents);
    let mut list = Fields(outer.vector16()?);
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        let name = list.vector8()?;
        if name.is_empty() {
            return None;
        }
        protocols.push(name.into());
    }
    (outer.0.is_empty() && !protocols.is_empty()).then_some(protocols)
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let len = self.take(1)?[0];
        self.take(usize::from(len))
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let len = self.take(2)?;
        self.take(usize::from(u16::from_be_bytes([len[0], len[1]])))
    }
}

const HANDSHAKE: u8 = 0x16;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const HOST_NAME: u8 = 0;

#[cfg(test)]
mod tests;
