//! Every seed of the fuzz targets, on every run of the tests.

use std::path::Path;

use outrigger_fuzz_properties::{authz_path, client_hello, h3_frames, jwt, qpack, spiffe, xds};

/// Calls `check` with every file of a folder, and with every file cut short at each of its bytes.
fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../seeds").join(target);
    let mut seeds = 0;
    for entry in std::fs::read_dir(&folder).expect("the seeds") {
        let input = std::fs::read(entry.expect("an entry").path()).expect("a seed");
        for length in 0..=input.len() {
            check(&input[..length]);
        }
        seeds += 1;
    }
    assert!(seeds > 2, "{} has only {seeds} seeds", folder.display());
}

#[test]
fn spiffe_ids_and_patterns() {
    replay("spiffe", spiffe::check);
}

#[test]
fn paths_and_rules_about_them() {
    replay("authz_path", authz_path::check);
}

#[test]
fn tokens_and_keys() {
    replay("jwt", jwt::check);
}

#[test]
fn resources_of_control_planes() {
    replay("xds", xds::check);
}

#[test]
fn client_hellos() {
    replay("client_hello", client_hello::check);
}

#[test]
fn frames_of_http3() {
    replay("h3_frames", h3_frames::check);
}

#[test]
fn field_sections_of_http3() {
    replay("qpack", qpack::check);
}
