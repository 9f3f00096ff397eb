//! What of a request consistent hashing goes by: a rule's [`HashKey`]s made one number.

mod xxh64;

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use http::HeaderMap;
use outrigger_config::model::{HashKey, HashSource};
use smallvec::SmallVec;

use super::{cookie, query};
pub use xxh64::xxh64;

/// A request as it is hashed.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// In normal form, without the query.
    pub path: &'a str,
    /// Without its `?`.
    pub query: Option<&'a str>,
    /// The address of the client.
    pub client: IpAddr,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hashed<'a> {
    /// `None`: the request has none of the keys.
    pub hash: Option<u64>,
    /// Cookies that it lacked, and that were made.
    pub made: SmallVec<[MadeCookie<'a>; 1]>,
}

/// A cookie that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeCookie<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its value.
    pub value: String,
    /// How long it lasts; zero: as long as the browser's session.
    pub ttl: Duration,
    /// Its path.
    pub path: Option<&'a str>,
}

/// Hashes what the request has of these keys, in order. `random` makes the values of cookies that are missing.
#[must_use]
pub fn hash<'a>(keys: &'a [HashKey], subject: &Subject<'_>, mut random: impl FnMut() -> u64) -> Hashed<'a> {
    let mut hashed = Hashed { hash: None, made: SmallVec::new() };
    for HashKey { source, terminal } in keys {
        let Some(value) = value(source, subject, &mut random, &mut hashed.made) else { continue };
        hashed.hash = Some(xxh64(&value, hashed.hash.unwrap_or(0)));
        if *terminal {
            break;
        }
    }
    hashed
}

fn value<'a, 's>(
    source: &'a HashSource,
    subject: &Subject<'s>,
    random: &mut impl FnMut() -> u64,
    made: &mut SmallVec<[MadeCookie<'a>; 1]>,
) -> Option<Cow<'s, [u8]>>
where
    'a: 's,
{
    match source {
        HashSource::Header(name) => {
            let mut lines = subject.headers.get_all(name).iter();
            let first = Cow::Borrowed(lines.next()?.as_bytes());
            Some(lines.fold(first, |joined, line| [&joined, &b","[..], line.as_bytes()].concat().into()))
        }
        HashSource::Cookie { name, ttl, path } => match (cookie::values(subject.headers, name).next(), ttl) {
            (Some(value), _) => Some(Cow::Borrowed(value)),
            (None, Some(ttl)) => {
                let value = format!("{:016x}{:016x}", random(), random());
                let bytes = value.clone().into_bytes().into();
                made.push(MadeCookie { name, value, ttl: *ttl, path: path.as_deref() });
                Some(bytes)
            }
            (None, None) => None,
        },
        HashSource::SourceAddress => Some(match subject.client {
            IpAddr::V4(ip) => ip.octets().to_vec().into(),
            IpAddr::V6(ip) => ip.octets().to_vec().into(),
        }),
        HashSource::Query(name) => query::values(subject.query?, name).next(),
        HashSource::Path => Some(Cow::Borrowed(subject.path.as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::{HeaderName, HeaderValue};

    fn key(source: HashSource) -> HashKey {
        HashKey { source, terminal: false }
    }

    fn header(name: &'static str) -> HashKey {
        key(HashSource::Header(HeaderName::from_static(name)))
    }

    fn cookie(ttl: Option<u64>) -> HashKey {
        key(HashSource::Cookie { name: "u".into(), ttl: ttl.map(Duration::from_secs), path: Some("/p".into()) })
    }

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        fields.iter().map(field).collect()
    }

    fn of<'a>(keys: &'a [HashKey], headers: &HeaderMap) -> Hashed<'a> {
        let subject = Subject { headers, path: "/a", query: Some("q=1&r=%31"), client: [10, 0, 0, 1].into() };
        let mut next = 0;
        hash(keys, &subject, || {
            next += 1;
            next
        })
    }

    #[test]
    fn what_is_lacking_is_passed_over() {
        let both = [header("x-a"), header("x-b")];
        let only_b = of(&both, &headers(&[("x-b", "1")]));
        assert_eq!(only_b, of(&both[1..], &headers(&[("x-b", "1")])));
        assert_eq!(of(&both, &headers(&[])).hash, None);
        assert_ne!(of(&both, &headers(&[("x-a", "1"), ("x-b", "1")])), only_b);
        assert_ne!(
            of(&both, &headers(&[("x-a", "1"), ("x-b", "2")])),
            of(&both, &headers(&[("x-a", "2"), ("x-b", "1")]))
        );
    }

    #[test]
    fn after_a_terminal_key_none_is_looked_at() {
        let keys = [HashKey { terminal: true, ..header("x-a") }, header("x-b")];
        let with = |b| of(&keys, &headers(&[("x-a", "1"), ("x-b", b)]));
        assert_eq!(with("1"), with("2"));
        assert_ne!(of(&keys, &headers(&[("x-b", "1")])), of(&keys, &headers(&[("x-b", "2")])));
    }

    #[test]
    fn every_source_is_read() {
        let none = headers(&[]);
        let path = of(&[key(HashSource::Path)], &none).hash;
        assert_eq!(path, Some(xxh64(b"/a", 0)));
        let query = |name: &str| of(&[key(HashSource::Query(name.into()))], &none).hash;
        assert_eq!(query("q"), query("r"), "values are decoded");
        assert_eq!(query("s"), None);
        assert_eq!(of(&[key(HashSource::SourceAddress)], &none).hash, Some(xxh64(&[10, 0, 0, 1], 0)));
        let lines = of(&[header("x-a")], &headers(&[("x-a", "1"), ("x-a", "2")])).hash;
        assert_eq!(lines, Some(xxh64(b"1,2", 0)));
    }

    #[test]
    fn a_missing_cookie_is_made_where_it_has_a_time_to_live() {
        let keys = [cookie(Some(60))];
        let made = of(&keys, &headers(&[]));
        let [cookie_made] = &made.made[..] else { panic!("one cookie: {made:?}") };
        assert_eq!((cookie_made.name, cookie_made.ttl, cookie_made.path), ("u", Duration::from_secs(60), Some("/p")));
        let sent: &'static str = format!("u={}", cookie_made.value).leak();
        let again = of(&keys, &headers(&[("cookie", sent)]));
        assert_eq!(again.hash, made.hash, "the cookie leads to the same endpoint");
        assert!(again.made.is_empty());
        assert_eq!(of(&[cookie(None)], &headers(&[])).hash, None);
    }
}
