use super::*;
use crate::load;

fn loaded(text: &str) -> Config {
    Config::clone(&load("test.yaml", text).expect("a configuration").config)
}

const EXAMPLES: [&str; 3] = [
    include_str!("../../examples/full.yaml"),
    include_str!("../../examples/authorization.yaml"),
    include_str!("../../examples/edge-tls.yaml"),
];

#[test]
fn what_was_written_and_checked_is_taken_when_built() {
    for text in EXAMPLES {
        let config = loaded(text);
        let checked = check(config.clone()).unwrap_or_else(|problems| panic!("{problems:?}"));
        assert_eq!(*checked, config);
    }
}

#[test]
fn every_reference_must_lead_somewhere() {
    let mut config = loaded(EXAMPLES[0]);
    config.clusters.clear();
    config.routes.clear();
    config.authorization.clear();
    config.jwt_providers.clear();
    config.external_authorizers.clear();
    let problems = check(config).expect_err("dangling references");
    assert!(problems.iter().any(|problem| problem.message.contains("route table")), "{problems:?}");
    assert!(problems.iter().all(|problem| problem.part == Part::Listener), "{problems:?}");
}

#[test]
fn a_problem_names_the_thing_and_the_field() {
    let mut config = loaded(EXAMPLES[0]);
    let table = config.routes.values_mut().next().expect("a table");
    let (name, rule) = (Arc::clone(&table.name), &mut table.hosts[0].rules[0]);
    rule.retry.attempts.value = 9;
    let problems = check(config).expect_err("too many attempts");
    let field = "hosts[0].rules[0].retry.attempts";
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!((problems[0].part, &problems[0].name, &*problems[0].field), (Part::Routes, &name, field));
}

#[test]
fn a_cluster_may_be_empty_and_there_may_be_no_listeners() {
    let mut config = loaded(EXAMPLES[0]);
    config.clusters.values_mut().for_each(|cluster| cluster.endpoints.clear());
    config.listeners.clear();
    assert!(check(config).is_ok());
}

#[test]
fn two_listeners_on_one_socket_are_refused() {
    let mut config = loaded(EXAMPLES[0]);
    let mut second = config.listeners[0].clone();
    second.name = "second".into();
    config.listeners.push(second);
    let problems = check(config).expect_err("one socket");
    assert!(problems.iter().any(|problem| problem.field == "bind" && &*problem.name == "second"), "{problems:?}");
}

#[test]
fn a_pattern_must_stand_for_the_whole_value() {
    let mut config = loaded(EXAMPLES[0]);
    let table = config.routes.values_mut().next().expect("a table");
    let any = crate::model::Match {
        path: crate::model::PathMatch::Regex(regex::Regex::new("/a").expect("a pattern")),
        method: None,
        headers: Vec::new(),
        query: Vec::new(),
        grpc: false,
    };
    table.hosts[0].rules[0].matches = vec![any];
    let problems = check(config).expect_err("not anchored");
    assert!(problems.iter().any(|problem| problem.message.contains("anchored")), "{problems:?}");
}
