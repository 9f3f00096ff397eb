//! How else a path may be read.
//!
//! Routing reads a path in one normal form, and so does the application, unless its framework goes further: it may
//! decode `%2F` and `%3A`, take a backslash for a slash, merge slashes, or cut `;parameters` off a segment before it
//! looks at `..` (Servlet containers do). Some do all of it, some a part, and not in the same order:
//! `/admin%2F..;/x` is below `/admin` for who decodes and cuts nothing off, and `/x` for who does both. So there is
//! a reading for each way that differs. Paths without any of these have none, which is decided in one scan.

use std::borrow::Cow;

use smallvec::SmallVec;

/// The readings of a path besides its normal form.
#[derive(Debug)]
pub(super) struct Readings {
    others: SmallVec<[String; 2]>,
}

impl Readings {
    /// Of a path in normal form.
    pub(super) fn of(path: &str) -> Self {
        let mut readings = Self::plain();
        if is_odd(path) {
            let (decoded, cut) = (decode(path), cut(path));
            for text in [path, &cut, &decoded, &self::cut(&decoded), &decode(&cut)] {
                readings.add(path, Cow::Borrowed(text));
                readings.add(path, Cow::Owned(resolve(text)));
            }
        }
        readings
    }

    /// Of a path that nobody looks at.
    pub(super) const fn plain() -> Self {
        Self { others: SmallVec::new_const() }
    }

    pub(super) fn others(&self) -> impl Iterator<Item = &str> {
        self.others.iter().map(String::as_str)
    }

    fn add(&mut self, path: &str, other: Cow<'_, str>) {
        if other != path && !self.others().any(|known| known == other) {
            self.others.push(other.into_owned());
        }
    }
}

/// What the most lenient reader makes of a path. Borrowed when it is the same.
pub(super) fn lenient(path: &str) -> Cow<'_, str> {
    if !is_odd(path) {
        return Cow::Borrowed(path);
    }
    let other = resolve(&cut(&decode(path)));
    if other == path { Cow::Borrowed(path) } else { Cow::Owned(other) }
}

/// Whether there is anything in a path that could be read in another way. Paths are short: one plain pass is quicker
/// than setting up a search.
fn is_odd(path: &str) -> bool {
    let mut previous = 0;
    let mut odd = |byte| {
        let odd = matches!(byte, b'%' | b';') || (byte == b'/' && previous == b'/');
        previous = byte;
        odd
    };
    path.starts_with('/') && path.bytes().any(&mut odd)
}

/// Without the parameters of segments.
fn cut(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for (at, segment) in path.split('/').enumerate() {
        if at > 0 {
            out.push('/');
        }
        out.push_str(segment.split(';').next().unwrap_or_default());
    }
    out
}

/// Without empty and dot segments.
fn resolve(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut folder = false;
    for segment in path.split('/').skip(1) {
        folder = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            // Above the root there is nothing: it stays the root.
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    let mut other = String::with_capacity(path.len());
    for segment in &kept {
        other.push('/');
        other.push_str(segment);
    }
    if folder || other.is_empty() {
        other.push('/');
    }
    other
}

/// Decodes what stands for a character that a path may contain: delimiters and slashes. Everything else stays
/// encoded, as it does in normal form.
fn decode(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = memchr::memchr(b'%', rest.as_bytes()) {
        out.push_str(&rest[..at]);
        match rest.get(at..at + 3).and_then(delimiter) {
            Some(character) => {
                out.push(character);
                rest = &rest[at + 3..];
            }
            None => {
                out.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// Encodings are upper-case in normal form.
fn delimiter(encoded: &str) -> Option<char> {
    Some(match encoded {
        // Who decodes a backslash may take it for a slash.
        "%2F" | "%5C" => '/',
        "%3B" => ';',
        "%3A" => ':',
        "%40" => '@',
        "%21" => '!',
        "%24" => '$',
        "%26" => '&',
        "%27" => '\'',
        "%28" => '(',
        "%29" => ')',
        "%2A" => '*',
        "%2B" => '+',
        "%2C" => ',',
        "%3D" => '=',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_reading_is_what_a_lenient_framework_sees() {
        for (path, other) in [
            ("/a;v=1/b", "/a/b"),
            ("/public/..;/admin", "/admin"),
            ("/public/..;x=y/admin;z", "/admin"),
            ("/;/admin", "/admin"),
            ("/a%2Fb", "/a/b"),
            ("/a%2F..%2Fb", "/b"),
            ("/a%5C..%5Cb", "/b"),
            ("/%2F%2Fadmin", "/admin"),
            ("/..%2F..%2Fadmin", "/admin"),
            ("//admin//x/", "/admin/x/"),
            ("/v1/x%3Apurge", "/v1/x:purge"),
            ("/a%3Bb", "/a"),
            ("/a/..;", "/"),
            ("/a/b/.;", "/a/b/"),
            ("/a%252Fb", "/a%252Fb"),
        ] {
            assert_eq!(lenient(path), other, "{path}");
        }
    }

    #[test]
    fn there_is_a_reading_for_each_way_to_go_further() {
        let of = |path: &str| {
            let mut readings: Vec<_> = Readings::of(path).others().map(str::to_owned).collect();
            readings.sort_unstable();
            readings
        };
        assert_eq!(of("/a%2Fb"), ["/a/b"]);
        assert_eq!(of("/a;v=1/b"), ["/a/b"]);
        assert_eq!(of("/admin%2F..;/x"), ["/admin%2F../x", "/admin/../x", "/admin/..;/x", "/x"]);
        assert_eq!(
            of("/public/..;/admin/%2F.."),
            [
                "/",
                "/admin/%2F..",
                "/public/../admin/%2F..",
                "/public/../admin//..",
                "/public/..;/",
                "/public/..;/admin//..",
            ]
        );
    }

    #[test]
    fn a_plain_path_has_no_other_reading() {
        for path in ["/", "/a/b", "/a/", "*", "/caf%C3%A9", "/a%20b", "/a:b@c", "/a..b/...", "/%25"] {
            assert!(matches!(lenient(path), Cow::Borrowed(_)), "{path}");
        }
    }
}
