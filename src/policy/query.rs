//! Queries: reading single parameters and taking them out, without touching the others. Names are compared decoded,
//! so that no spelling of a name hides a parameter.

use std::borrow::Cow;

use super::route::percent_decode;

/// The values of every parameter of a name, decoded. `query` is without its `?`.
pub fn values<'a>(query: &'a str, name: &str) -> impl Iterator<Item = Cow<'a, [u8]>> {
    pairs(query).filter(move |pair| is_named(pair, name)).map(|pair| percent_decode(split(pair).1))
}

/// A path and query without the parameters of these names. `None`: there are none.
#[must_use]
pub fn without(path_and_query: &str, names: &[&str]) -> Option<String> {
    let (path, query) = path_and_query.split_once('?')?;
    let goes = |pair: &&str| names.iter().any(|name| is_named(pair, name));
    if !pairs(query).any(|pair| goes(&pair)) {
        return None;
    }
    let mut left = path.to_owned();
    let mut mark = '?';
    for pair in pairs(query).filter(|pair| !goes(pair)) {
        left.push(mark);
        left.push_str(pair);
        mark = '&';
    }
    Some(left)
}

/// A path and query in which a parameter has one value and no other. The value is encoded as needed.
#[must_use]
pub fn with(path_and_query: &str, name: &str, value: &str) -> String {
    let mut text = without(path_and_query, &[name]).unwrap_or_else(|| path_and_query.to_owned());
    text.push(if text.contains('?') { '&' } else { '?' });
    encode(name, &mut text);
    text.push('=');
    encode(value, &mut text);
    text
}

fn pairs(query: &str) -> impl Iterator<Item = &str> {
    query.split('&')
}

fn split(pair: &str) -> (&str, &str) {
    pair.split_once('=').unwrap_or((pair, ""))
}

fn is_named(pair: &str, name: &str) -> bool {
    *percent_decode(split(pair).0) == *name.as_bytes()
}

/// Everything but the unreserved characters of RFC 3986 section 2.3.
fn encode(text: &str, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.extend(['%', char::from(HEX[usize::from(byte >> 4)]), char::from(HEX[usize::from(byte & 15)])]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_name_is_found_and_taken_out() {
        let query = "a=1&t=x&%74=y%2Ez&T=2&tt=3&t&b=t=4";
        let found: Vec<_> = values(query, "t").map(|v| String::from_utf8_lossy(&v).into_owned()).collect();
        assert_eq!(found, ["x", "y.z", ""]);
        assert_eq!(without(&format!("/p?{query}"), &["t"]).as_deref(), Some("/p?a=1&T=2&tt=3&b=t=4"));
    }

    #[test]
    fn what_is_not_there_changes_nothing() {
        for path in ["/p", "/p?", "/p?a=1", "/t=1", "/t?x=t"] {
            assert_eq!(without(path, &["t"]), None, "{path}");
        }
        assert_eq!(without("/p?t=1", &["t"]).as_deref(), Some("/p"));
        assert_eq!(without("/p?t=1&u=2&&v", &["t", "u"]).as_deref(), Some("/p?&v"));
    }

    #[test]
    fn a_value_that_is_set_is_the_only_one() {
        assert_eq!(with("/p", "a b", "1&c=2\r\n"), "/p?a%20b=1%26c%3D2%0D%0A");
        assert_eq!(with("/p?x=1&a=2&a=3", "a", "4"), "/p?x=1&a=4");
        assert_eq!(with("/p?a=2", "a", ""), "/p?a=");
    }
}
