//! The dump means what the configuration means.

use super::*;
use outrigger_config::{diff, load};

#[test]
fn a_dump_of_a_dump_is_the_same_for_every_example() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("the examples") {
        let path = entry.expect("an example").path();
        let text = std::fs::read_to_string(&path).expect("readable");
        let loaded = load("first", &text).expect("valid");
        if loaded.control_plane.is_some() {
            // It says nothing but where the rest comes from.
            continue;
        }
        let first = config(&loaded.config, |_| None);
        let again = load("again", &first.to_string()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(config(&again.config, |_| None), first, "{}", path.display());
        let change = diff(&load("first", &text).expect("valid").config, &again.config);
        let guards = [&change.listeners, &change.clusters, &change.authorization, &change.jwt_providers];
        let rules = change.authorization_rules.is_empty();
        assert!(change.settings.is_empty() && rules && guards.iter().all(|changes| changes.is_empty()), "{change}");
        assert!(change.external_authorizers.is_empty(), "{change}");
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn credentials_are_left_out() {
    let text = r#"
        listeners: [{ name: in, bind: 127.0.0.1:1, routes: r }]
        routes:
          r:
            - rules:
                - matches: [{ headers: [{ name: x-api-key, exact: hunter2 }], query: [{ name: token, exact: hunter2 }] }]
                  filters:
                    - requestHeaders: { set: { authorization: Bearer hunter2, x-plain: shown } }
                    - responseHeaders: { add: { set-cookie: a=hunter2 } }
                  backendRefs: [{ cluster: c }]
        clusters: { c: { endpoints: [127.0.0.1:2] } }
    "#;
    let dump = config(&load("f", text).expect("valid").config, |_| None).to_string();
    assert!(!dump.contains("hunter2") && dump.contains("shown"), "{dump}");
}

#[test]
fn durations_are_written_in_their_largest_whole_unit() {
    for (micros, text) in
        [(0, "0s"), (1, "1us"), (1500, "1500us"), (250_000, "250ms"), (90_000_000, "90s"), (3_600_000_000, "1h")]
    {
        assert_eq!(duration(Duration::from_micros(micros)), text);
    }
}
