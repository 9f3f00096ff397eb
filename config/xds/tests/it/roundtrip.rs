//! What is encoded and decoded is what it was.

use outrigger_config::built;
use outrigger_config::model::{Config, Place};
use outrigger_xds::{Context, Form, Kind, Parts, Settings, assemble, decode, encode};
use proptest::prelude::*;

use crate::model;

pub(crate) fn context() -> Context {
    Context { folder: "/state/xds".into() }
}

pub(crate) fn settings(config: &Config) -> Settings {
    Settings {
        node: config.node.clone(),
        admin: config.admin.clone(),
        access_log: config.access_log.clone(),
        workers: config.workers,
        drain: config.drain.clone(),
        identity: config.identity.clone(),
        overload: config.overload.clone(),
    }
}

pub(crate) fn through(config: &Config, form: Form) -> Result<Config, String> {
    let mut parts = Parts::default();
    for resource in encode::config(config, form) {
        let decoded = decode(resource.kind, &resource.name, &resource.body, &context())
            .map_err(|refusals| refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
        parts.insert(&resource.name, &decoded);
    }
    let assembled = assemble(&settings(config), &parts).map_err(|refusals| format!("{refusals:?}"))?;
    if !assembled.waiting.is_empty() {
        return Err(format!("waits for {:?}", assembled.waiting));
    }
    Ok(assembled.config)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_decoded_is_what_was_encoded(config in model::config()) {
        let checked = built::check(config.clone());
        prop_assert!(checked.is_ok(), "{:?}", checked.err());
        let read = through(&config, Form::Outrigger);
        prop_assert!(read.is_ok(), "{}", read.err().unwrap_or_default());
        let read = read.expect("decoded");
        // Part by part, so that a difference can be seen.
        prop_assert_eq!(&read.listeners, &config.listeners);
        prop_assert_eq!(&read.clusters, &config.clusters);
        prop_assert_eq!(&read.routes, &config.routes);
        prop_assert_eq!(&read.authorization, &config.authorization);
        prop_assert_eq!(&read.jwt_providers, &config.jwt_providers);
        prop_assert_eq!(read, config);
    }

    #[test]
    fn the_same_model_gives_the_same_bytes(config in model::config()) {
        for form in [Form::Outrigger, Form::Envoy, Form::Grpc] {
            prop_assert_eq!(encode::config(&config, form), encode::config(&config.clone(), form));
        }
    }
}

#[test]
fn a_resource_is_sent_before_what_refers_to_it() {
    let place = Place { file: "a".into(), line: 1, column: 1 };
    let kinds: Vec<Kind> = encode::config(&model::empty(&place), Form::Outrigger).iter().map(|one| one.kind).collect();
    assert!(kinds.is_sorted());
}

/// Writes seeds for the fuzz target: one file for each resource of a few configurations. Run by hand, as
/// `SEEDS=fuzz/seeds/xds cargo test -p outrigger-xds seeds`; without the variable it checks that they decode.
#[test]
fn resources_of_configurations_are_seeds() {
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for number in 0..3 {
        let config = model::config().new_tree(&mut runner).expect("a configuration").current();
        for resource in encode::config(&config, Form::Outrigger) {
            let first = Kind::ALL.iter().position(|kind| *kind == resource.kind).expect("a kind");
            assert!(decode(resource.kind, &resource.name, &resource.body, &context()).is_ok());
            // Every prefix of a seed is tried, so long ones would take long.
            if let Some(folder) = std::env::var_os("SEEDS").filter(|_| resource.body.len() < 3000) {
                let mut seed = vec![u8::try_from(first).expect("few kinds")];
                seed.extend_from_slice(&resource.body);
                let name = resource.name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
                let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder);
                std::fs::create_dir_all(&folder).expect("a folder");
                std::fs::write(folder.join(format!("{number}-{first}-{name}")), seed).expect("written");
            }
        }
    }
}
