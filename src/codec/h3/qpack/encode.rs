//! Field sections on their way out.

use bytes::{BufMut, BytesMut};
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::table::{LINES, lines_of};
use super::{huffman, integer};
use crate::codec::heads::fields;

/// Appends the lines of one field section to a buffer.
#[derive(Debug)]
pub struct Encoder<'a> {
    buffer: &'a mut BytesMut,
    size: u64,
}

impl<'a> Encoder<'a> {
    /// Begins a section.
    pub fn new(buffer: &'a mut BytesMut) -> Self {
        // Required Insert Count and Base: nothing is referred to but the static table.
        buffer.put_u16(0);
        Self { buffer, size: 0 }
    }

    /// How large the section is so far, as RFC 9114 section 4.2.2 counts.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// `:method`.
    pub fn method(&mut self, method: &Method) {
        self.count(":method", method.as_str());
        match method.as_str() {
            "CONNECT" => self.indexed(15),
            "DELETE" => self.indexed(16),
            "GET" => self.indexed(17),
            "HEAD" => self.indexed(18),
            "OPTIONS" => self.indexed(19),
            "POST" => self.indexed(20),
            "PUT" => self.indexed(21),
            other => self.named(15, other.as_bytes(), false),
        }
    }

    /// `:scheme`.
    pub fn scheme(&mut self, scheme: &Scheme) {
        self.count(":scheme", scheme.as_str());
        match scheme.as_str() {
            "http" => self.indexed(22),
            "https" => self.indexed(23),
            other => self.named(22, other.as_bytes(), false),
        }
    }

    /// `:authority`.
    pub fn authority(&mut self, authority: &str) {
        self.count(":authority", authority);
        self.named(0, authority.as_bytes(), false);
    }

    /// `:path`.
    pub fn path(&mut self, path: &str) {
        self.count(":path", path);
        if path == "/" { self.indexed(1) } else { self.named(1, path.as_bytes(), false) }
    }

    /// `:protocol` (RFC 8441).
    pub fn protocol(&mut self, protocol: &str) {
        self.count(":protocol", protocol);
        self.literal(b":protocol", protocol.as_bytes(), false);
    }

    /// `:status`.
    pub fn status(&mut self, status: StatusCode) {
        self.count(":status", status.as_str());
        match status.as_u16() {
            103 => self.indexed(24),
            200 => self.indexed(25),
            304 => self.indexed(26),
            404 => self.indexed(27),
            503 => self.indexed(28),
            100 => self.indexed(63),
            204 => self.indexed(64),
            206 => self.indexed(65),
            302 => self.indexed(66),
            400 => self.indexed(67),
            403 => self.indexed(68),
            421 => self.indexed(69),
            425 => self.indexed(70),
            500 => self.indexed(71),
            _ => self.named(24, status.as_str().as_bytes(), false),
        }
    }

    /// All fields of a map.
    pub fn fields(&mut self, headers: &HeaderMap) {
        for (name, value) in headers {
            self.field(name, value);
        }
    }

    fn field(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.size += fields::size(name, value) as u64;
        let lines = lines_of(name.as_str());
        let sensitive = value.is_sensitive();
        if !sensitive && let Some(line) = lines.iter().find(|line| LINES[usize::from(**line)].1 == *value) {
            self.indexed(*line);
            return;
        }
        match lines.first() {
            Some(line) => self.named(*line, value.as_bytes(), sensitive),
            None => self.literal(name.as_str().as_bytes(), value.as_bytes(), sensitive),
        }
    }

    fn count(&mut self, name: &str, value: &str) {
        self.size += (name.len() + value.len() + fields::OVERHEAD) as u64;
    }

    /// A line of the static table.
    fn indexed(&mut self, line: u8) {
        integer::put(self.buffer, 0b1100_0000, 6, u64::from(line));
    }

    /// The name of a line of the static table, and a value.
    fn named(&mut self, line: u8, value: &[u8], sensitive: bool) {
        let pattern = if sensitive { 0b0111_0000 } else { 0b0101_0000 };
        integer::put(self.buffer, pattern, 4, u64::from(line));
        self.string(0, 7, value);
    }

    fn literal(&mut self, name: &[u8], value: &[u8], sensitive: bool) {
        let pattern = if sensitive { 0b0011_0000 } else { 0b0010_0000 };
        self.string(pattern, 3, name);
        self.string(0, 7, value);
    }

    /// A string, whose length has `prefix` bits behind the one that tells that it is coded.
    fn string(&mut self, pattern: u8, prefix: u8, text: &[u8]) {
        let coded = huffman::encoded_len(text);
        if coded < text.len() {
            integer::put(self.buffer, pattern | 1 << prefix, prefix, coded as u64);
            huffman::encode(text, self.buffer);
        } else {
            integer::put(self.buffer, pattern, prefix, text.len() as u64);
            self.buffer.extend_from_slice(text);
        }
    }
}
