//! Where a configuration comes from that is not in the file.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Check, Wrong, identity, names};
use crate::limits;
use crate::model::{ControlIdentity, ControlPlane, ControlServer, Join, Target};
use crate::raw;
use crate::read::Field;
use crate::source::Span;
use crate::text::quoted;

/// Checks `controlPlane`. `identity` is where the file has an identity of its own.
pub(super) fn control_plane(
    check: &Check<'_, '_>,
    field: &Field<raw::ControlPlane>,
    identity: Option<Span>,
) -> Option<ControlPlane> {
    let (raw, span) = field.here()?;
    let raw::ControlPlane {
        servers,
        server_identity,
        server_name,
        trust_bundle,
        join_token,
        service_account_token_file,
        workload,
        max_age,
        allow_plaintext,
        delta,
    } = raw;
    let lack = ("`controlPlane` names no servers", "add at least one: `servers: [control.mesh.local:15012]`");
    let listed = check.required_list(servers, (span, lack), ("servers", limits::MAX_CONTROL_SERVERS));
    let mut parsed: Vec<ControlServer> = Vec::with_capacity(listed.len());
    for (text, at) in listed.iter().filter_map(Field::here) {
        let Some(server) = check.parsed(server(text), at) else { continue };
        if parsed.contains(&server) {
            check.error(at, format!("the server `{}` comes twice", quoted(text)), "remove one");
            continue;
        }
        if !server.tls && !is_loopback(&server.host) && !check.flag(allow_plaintext, false) {
            let message = format!("the configuration would come from `{}` without TLS", quoted(text));
            let fix = "leave out `http://`, or add `allowPlaintext: true` if nobody else can be in between";
            check.error(at, message, fix);
        }
        parsed.push(server);
    }
    let tls = parsed.iter().any(|server| server.tls);
    let expect = expected(check, server_identity, server_name);
    let bundle = check.optional_file(trust_bundle);
    if tls && trust_bundle.is_absent() {
        let fix = "add the file with the roots of the mesh: `trustBundle: /etc/outrigger/bundle.pem`";
        check.error(span, "`controlPlane` has no `trustBundle` to verify its servers by", fix);
    }
    let join = join(check, join_token, service_account_token_file);
    let named = workload.here().and_then(|(text, at)| check.parsed(self::workload(text), at));
    if let (Some(Join::ServiceAccount(_)), true) = (&join, workload.is_absent()) {
        let fix = "add the workload that this proxy stands beside: `workload: shop/payments-1`";
        check.error(span, "a service account token is good for many workloads, and none is named", fix);
    }
    if let (Some(_), Some(at)) = (&join, identity) {
        let fix = "remove `identity`, or the token in `controlPlane`";
        check.error(at, "the certificate comes from the control plane and from files at once", fix);
    }
    Some(ControlPlane {
        servers: parsed,
        expect: expect?,
        trust_bundle: bundle,
        join,
        workload: named,
        max_age: check.duration(max_age, DEFAULT_MAX_AGE),
        delta: delta.get().is_none_or(|delta| *delta == raw::Delta::Auto),
        place: check.place(span),
    })
}

const DEFAULT_MAX_AGE: Duration = Duration::from_secs(72 * 3600);

/// Reports what the control plane would say and the file says too.
pub(super) fn no_resources(check: &Check<'_, '_>, sections: &[(&str, Option<Span>)]) {
    for (name, span) in sections {
        if let Some(span) = span {
            let message = format!("`{name}` and `controlPlane` are in one file");
            check.error(
                *span,
                message,
                format!("remove `{name}`: the control plane says it, or remove `controlPlane`"),
            );
        }
    }
}

fn server(text: &str) -> Result<ControlServer, Wrong> {
    let (tls, rest) = match text.split_once("://") {
        Some(("http", rest)) => (false, rest),
        Some(("https", rest)) => (true, rest),
        Some((scheme, _)) => {
            let message = format!("`{}` is no scheme of a control plane", quoted(scheme));
            return Err(Wrong::new(message, "write `HOST:PORT`, or `http://HOST:PORT` for one on this host"));
        }
        None => (true, text),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains('/') {
        return Err(Wrong::new(format!("the server `{}` has a path", quoted(text)), "write `HOST:PORT`"));
    }
    let target = names::target(rest)
        .map_err(|Wrong { message, fix }| Wrong::new(message.replacen("the endpoint", "the server", 1), fix))?;
    Ok(match target {
        Target::Address(address) => ControlServer { host: address.ip().to_string().into(), port: address.port(), tls },
        Target::Name { host, port } => ControlServer { host, port, tls },
    })
}

/// A name may mean another host, also `localhost`.
fn is_loopback(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn expected(check: &Check<'_, '_>, by_id: &Field<String>, by_name: &Field<String>) -> Option<ControlIdentity> {
    if let (false, Some(at)) = (by_id.is_absent(), by_name.span()) {
        check.error(at, "a server is known by `serverIdentity` or by `serverName`", "keep one of the two");
        return None;
    }
    if let Some((text, at)) = by_id.here() {
        return check.parsed(identity::identity_pattern(text), at).map(ControlIdentity::Spiffe);
    }
    match by_name.here() {
        Some((text, at)) => check.parsed(names::host(text), at).map(ControlIdentity::Name),
        None if by_id.is_bad() || by_name.is_bad() => None,
        None => Some(ControlIdentity::Host),
    }
}

fn join(check: &Check<'_, '_>, token: &Field<raw::JoinToken>, account: &Field<String>) -> Option<Join> {
    if let (false, Some(at)) = (token.is_absent(), account.span()) {
        check.error(at, "one proof is enough: a join token or a service account token", "keep one of the two");
        return None;
    }
    if !account.is_absent() {
        return check.optional_file(account).map(Join::ServiceAccount);
    }
    let (raw::JoinToken { file, environment }, span) = token.here()?;
    match (file.is_absent(), environment.here()) {
        (false, Some((_, at))) => {
            check.error(at, "the token comes from exactly one of `file` and `environment`", "keep one of the two");
            None
        }
        (true, Some((text, at))) => check.parsed(variable(text), at).map(Join::TokenVariable),
        (_, None) if environment.is_bad() => None,
        (_, None) => {
            let lack = ("`joinToken` names neither a file nor a variable", "add `file: /run/outrigger/token`");
            check.file(file, span, lack).map(Join::TokenFile)
        }
    }
}

fn variable(text: &str) -> Result<Arc<str>, Wrong> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    // Not quoted: somebody may have written the token itself.
    if text.is_empty() || text.len() > limits::MAX_NAME_BYTES || !text.bytes().all(fits) {
        let fix = "write the name of the variable, such as `OUTRIGGER_JOIN_TOKEN`";
        return Err(Wrong::new("this is not the name of an environment variable", fix));
    }
    Ok(text.into())
}

fn workload(text: &str) -> Result<Arc<str>, Wrong> {
    let fits = |part: &str| {
        let of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        !part.is_empty() && part.len() <= limits::MAX_NAME_BYTES && part.bytes().all(of_name)
    };
    match text.split_once('/') {
        Some((namespace, name)) if fits(namespace) && fits(name) => Ok(text.into()),
        _ => Err(Wrong::new(
            format!("`{}` is not the name of a workload", quoted(text)),
            "write its namespace and its name: `shop/payments-1`",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_have_a_host_and_a_port_and_tls_unless_they_say_otherwise() {
        let of = |host: &str, port, tls| ControlServer { host: host.into(), port, tls };
        assert_eq!(server("control.mesh:15012"), Ok(of("control.mesh", 15012, true)));
        assert_eq!(server("https://10.0.0.1:1/"), Ok(of("10.0.0.1", 1, true)));
        assert_eq!(server("http://[::1]:15010"), Ok(of("::1", 15010, false)));
        assert_eq!(of("::1", 15010, false).to_string(), "http://[::1]:15010");
        for bad in ["control.mesh", "grpc://a:1", "a:0", "http://a:1/path", ""] {
            assert!(server(bad).is_err(), "{bad}");
        }
        assert!(server("a:0").expect_err("no port").message.contains("the server `a:0`"));
    }

    #[test]
    fn a_workload_is_named_with_its_namespace() {
        assert!(workload("shop/payments-1").is_ok());
        for bad in ["payments", "/a", "a/", "a/b/c", "a/b c"] {
            assert!(workload(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_token_in_the_place_of_a_variables_name_is_not_repeated() {
        let wrong = variable("eyJhbGciOi.J9").expect_err("no name");
        assert!(!wrong.message.contains("eyJ") && !wrong.fix.contains("eyJ"));
    }
}
