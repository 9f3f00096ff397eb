//! The conformance suite of RFC 9113 and RFC 7541 (crate `outrigger-h2conformance`) on the listener.

use outrigger_h2conformance::{Scope, Target, run_all};

use crate::support::{Config, H1Backend, Proxy, response};

/// Rules that h2spec does not check and the proxy does not keep yet, because the library underneath does not
/// show them: a first frame other than SETTINGS, and a pseudo-header field in trailers (which is dropped).
const NOT_KEPT: [&str; 2] = ["3.4/5", "8.3/5"];

#[tokio::test(flavor = "multi_thread")]
async fn the_listener_keeps_the_rules_of_http_2() {
    let body = [b'x'; 1000];
    let backend = H1Backend::answering(move |_| response(200, &[], &body)).await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr])).await;
    let results = run_all(&Target::new(proxy.addr())).await;
    assert!(results.len() > 200, "{} cases were played", results.len());
    for result in results.iter().filter(|result| result.scope == Scope::H2spec) {
        assert!(result.passed(), "{} {}: {:?}", result.name, result.rule, result.outcome);
    }
    let failed: Vec<&str> =
        results.iter().filter(|result| !result.passed()).map(|result| result.name.as_str()).collect();
    assert_eq!(failed, NOT_KEPT, "exactly the known ones");
}
