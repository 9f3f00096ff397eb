//! The static table (RFC 9204 appendix A).

use http::HeaderName;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, ACCEPT_RANGES, ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, AGE, ALT_SVC,
    AUTHORIZATION, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_SECURITY_POLICY,
    CONTENT_TYPE, COOKIE, DATE, ETAG, FORWARDED, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, LINK,
    LOCATION, ORIGIN, RANGE, REFERER, SERVER, SET_COOKIE, STRICT_TRANSPORT_SECURITY, UPGRADE_INSECURE_REQUESTS,
    USER_AGENT, VARY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS, X_XSS_PROTECTION,
};

use super::decode::Pseudo;

/// The name of a line.
#[derive(Debug, Clone)]
pub(super) enum Name {
    Pseudo(Pseudo),
    Field(HeaderName),
}

/// A table of names and values, checked to be written in the order of the indices.
macro_rules! lines {
    ($($index:literal $name:ident $value:literal;)*) => {{
        let table = [$((name!($name), $value)),*];
        let indices = [$($index),*];
        let mut at = 0;
        while at < indices.len() {
            assert!(indices[at] == at);
            at += 1;
        }
        table
    }};
}

macro_rules! name {
    (AUTHORITY) => {
        Name::Pseudo(Pseudo::Authority)
    };
    (PATH) => {
        Name::Pseudo(Pseudo::Path)
    };
    (METHOD) => {
        Name::Pseudo(Pseudo::Method)
    };
    (SCHEME) => {
        Name::Pseudo(Pseudo::Scheme)
    };
    (STATUS) => {
        Name::Pseudo(Pseudo::Status)
    };
    ($name:ident) => {
        Name::Field($name)
    };
}

const EARLY_DATA: HeaderName = HeaderName::from_static("early-data");
const EXPECT_CT: HeaderName = HeaderName::from_static("expect-ct");
const PURPOSE: HeaderName = HeaderName::from_static("purpose");
const TIMING_ALLOW_ORIGIN: HeaderName = HeaderName::from_static("timing-allow-origin");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Every line, by its index.
#[rustfmt::skip]
pub(super) static LINES: [(Name, &str); 99] = lines! {
    0 AUTHORITY ""; 1 PATH "/"; 2 AGE "0"; 3 CONTENT_DISPOSITION ""; 4 CONTENT_LENGTH "0";
    5 COOKIE ""; 6 DATE ""; 7 ETAG ""; 8 IF_MODIFIED_SINCE ""; 9 IF_NONE_MATCH "";
    10 LAST_MODIFIED ""; 11 LINK ""; 12 LOCATION ""; 13 REFERER ""; 14 SET_COOKIE "";
    15 METHOD "CONNECT"; 16 METHOD "DELETE"; 17 METHOD "GET"; 18 METHOD "HEAD"; 19 METHOD "OPTIONS";
    20 METHOD "POST"; 21 METHOD "PUT"; 22 SCHEME "http"; 23 SCHEME "https"; 24 STATUS "103";
    25 STATUS "200"; 26 STATUS "304"; 27 STATUS "404"; 28 STATUS "503"; 29 ACCEPT "*/*";
    30 ACCEPT "application/dns-message"; 31 ACCEPT_ENCODING "gzip, deflate, br"; 32 ACCEPT_RANGES "bytes";
    33 ACCESS_CONTROL_ALLOW_HEADERS "cache-control"; 34 ACCESS_CONTROL_ALLOW_HEADERS "content-type";
    35 ACCESS_CONTROL_ALLOW_ORIGIN "*"; 36 CACHE_CONTROL "max-age=0"; 37 CACHE_CONTROL "max-age=2592000";
    38 CACHE_CONTROL "max-age=604800"; 39 CACHE_CONTROL "no-cache"; 40 CACHE_CONTROL "no-store";
    41 CACHE_CONTROL "public, max-age=31536000"; 42 CONTENT_ENCODING "br"; 43 CONTENT_ENCODING "gzip";
    44 CONTENT_TYPE "application/dns-message"; 45 CONTENT_TYPE "application/javascript";
    46 CONTENT_TYPE "application/json"; 47 CONTENT_TYPE "application/x-www-form-urlencoded";
    48 CONTENT_TYPE "image/gif"; 49 CONTENT_TYPE "image/jpeg"; 50 CONTENT_TYPE "image/png"; 51 CONTENT_TYPE "text/css";
    52 CONTENT_TYPE "text/html; charset=utf-8"; 53 CONTENT_TYPE "text/plain"; 54 CONTENT_TYPE "text/plain;charset=utf-8";
    55 RANGE "bytes=0-"; 56 STRICT_TRANSPORT_SECURITY "max-age=31536000";
    57 STRICT_TRANSPORT_SECURITY "max-age=31536000; includesubdomains";
    58 STRICT_TRANSPORT_SECURITY "max-age=31536000; includesubdomains; preload"; 59 VARY "accept-encoding";
    60 VARY "origin"; 61 X_CONTENT_TYPE_OPTIONS "nosniff"; 62 X_XSS_PROTECTION "1; mode=block"; 63 STATUS "100";
    64 STATUS "204"; 65 STATUS "206"; 66 STATUS "302"; 67 STATUS "400"; 68 STATUS "403";
    69 STATUS "421"; 70 STATUS "425"; 71 STATUS "500"; 72 ACCEPT_LANGUAGE "";
    73 ACCESS_CONTROL_ALLOW_CREDENTIALS "FALSE"; 74 ACCESS_CONTROL_ALLOW_CREDENTIALS "TRUE";
    75 ACCESS_CONTROL_ALLOW_HEADERS "*"; 76 ACCESS_CONTROL_ALLOW_METHODS "get";
    77 ACCESS_CONTROL_ALLOW_METHODS "get, post, options"; 78 ACCESS_CONTROL_ALLOW_METHODS "options";
    79 ACCESS_CONTROL_EXPOSE_HEADERS "content-length"; 80 ACCESS_CONTROL_REQUEST_HEADERS "content-type";
    81 ACCESS_CONTROL_REQUEST_METHOD "get"; 82 ACCESS_CONTROL_REQUEST_METHOD "post"; 83 ALT_SVC "clear";
    84 AUTHORIZATION ""; 85 CONTENT_SECURITY_POLICY "script-src 'none'; object-src 'none'; base-uri 'none'";
    86 EARLY_DATA "1"; 87 EXPECT_CT ""; 88 FORWARDED ""; 89 IF_RANGE ""; 90 ORIGIN "";
    91 PURPOSE "prefetch"; 92 SERVER ""; 93 TIMING_ALLOW_ORIGIN "*"; 94 UPGRADE_INSECURE_REQUESTS "1";
    95 USER_AGENT ""; 96 X_FORWARDED_FOR ""; 97 X_FRAME_OPTIONS "deny"; 98 X_FRAME_OPTIONS "sameorigin";
};

/// The lines with this name.
pub(super) fn lines_of(name: &str) -> &'static [u8] {
    match name {
        "accept" => &[29, 30],
        "accept-encoding" => &[31],
        "accept-language" => &[72],
        "accept-ranges" => &[32],
        "access-control-allow-credentials" => &[73, 74],
        "access-control-allow-headers" => &[33, 34, 75],
        "access-control-allow-methods" => &[76, 77, 78],
        "access-control-allow-origin" => &[35],
        "access-control-expose-headers" => &[79],
        "access-control-request-headers" => &[80],
        "access-control-request-method" => &[81, 82],
        "age" => &[2],
        "alt-svc" => &[83],
        "authorization" => &[84],
        "cache-control" => &[36, 37, 38, 39, 40, 41],
        "content-disposition" => &[3],
        "content-encoding" => &[42, 43],
        "content-length" => &[4],
        "content-security-policy" => &[85],
        "content-type" => &[44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54],
        "cookie" => &[5],
        "date" => &[6],
        "early-data" => &[86],
        "etag" => &[7],
        "expect-ct" => &[87],
        "forwarded" => &[88],
        "if-modified-since" => &[8],
        "if-none-match" => &[9],
        "if-range" => &[89],
        "last-modified" => &[10],
        "link" => &[11],
        "location" => &[12],
        "origin" => &[90],
        "purpose" => &[91],
        "range" => &[55],
        "referer" => &[13],
        "server" => &[92],
        "set-cookie" => &[14],
        "strict-transport-security" => &[56, 57, 58],
        "timing-allow-origin" => &[93],
        "upgrade-insecure-requests" => &[94],
        "user-agent" => &[95],
        "vary" => &[59, 60],
        "x-content-type-options" => &[61],
        "x-forwarded-for" => &[96],
        "x-frame-options" => &[97, 98],
        "x-xss-protection" => &[62],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_found_by_its_name() {
        for (index, (name, _)) in LINES.iter().enumerate() {
            if let Name::Field(name) = name {
                let found = lines_of(name.as_str());
                assert!(found.contains(&(index as u8)), "{index} {name}");
                assert!(found.iter().all(|other| matches!(&LINES[usize::from(*other)].0, Name::Field(n) if n == name)));
            }
        }
    }
}
