//! What answers mean, and what follows a refusal.

use super::*;

#[test]
fn one_response_of_a_kind_is_unanswered_and_the_newest_state_follows() {
    let mut case = Case::new(Delta, Form::Outrigger, &[(Cds, "a", 1)]);
    case.ask(Cds, &[]);
    let first = case.sends("Cluster a");
    for content in 2..50 {
        case.set(&[(Cds, "a", content), (Cds, "b", content)]);
        case.is_silent();
    }
    case.ack(&first);
    let second = case.sends("Cluster a b");
    assert_eq!(second.resources[0].version, resource((Cds, "a", 49)).version);
    case.ack(&second);
    case.is_silent();
}

#[test]
fn a_stale_request_of_the_world_is_no_answer_and_gets_none() {
    let mut case = Case::new(World, Form::Grpc, &[(Eds, "a", 1), (Eds, "b", 1)]);
    case.ask(Eds, &["a"]);
    let first = case.sends("Endpoints a");
    case.ack(&first);
    case.set(&[(Eds, "a", 2), (Eds, "b", 1)]);
    let second = case.sends("Endpoints a");
    // Made before the second was seen.
    let names = Names::World { names: vec!["a".to_owned(), "b".to_owned()] };
    case.request(Request { kind: Eds, nonce: first.nonce.to_string(), nack: None, names });
    case.is_silent();
    assert_eq!(case.state(), ProxyState::Sent);
    let names = Names::World { names: vec!["a".to_owned(), "b".to_owned()] };
    case.request(Request { kind: Eds, nonce: second.nonce.to_string(), nack: None, names });
    case.sends_and_is_taken("Endpoints b");
}

#[test]
fn a_stale_request_of_delta_still_changes_what_is_asked_for() {
    let mut case = Case::new(Delta, Form::Grpc, &[(Eds, "a", 1), (Eds, "b", 1)]);
    case.ask(Eds, &["a"]);
    let first = case.sends("Endpoints a");
    let names = Names::Delta { subscribe: vec!["b".to_owned()], unsubscribe: Vec::new(), known: HashMap::new() };
    case.request(Request { kind: Eds, nonce: "77".to_owned(), nack: None, names });
    case.is_silent();
    case.ack(&first);
    case.sends_and_is_taken("Endpoints b");
}

#[test]
fn what_was_refused_is_not_sent_again_before_it_changes() {
    for protocol in [Delta, World] {
        let mut case = Case::new(protocol, Form::Grpc, &[(Rds, "good", 1), (Rds, "bad", 1)]);
        case.ask(Rds, &["good", "bad"]);
        let push = case.sends("Route bad good");
        case.nack(&push, &["bad"]);
        case.is_silent();
        assert_eq!(case.state(), ProxyState::Refused);
        case.set(&[(Rds, "good", 2), (Rds, "bad", 1)]);
        case.sends_and_is_taken("Route good");
        assert_eq!(case.state(), ProxyState::Refused);
        let report = case.session.report(case.now);
        assert_eq!(report.kinds[0].refusals.len(), 1, "it is still shown: {report:?}");
        case.set(&[(Rds, "good", 2), (Rds, "bad", 2)]);
        case.sends_and_is_taken("Route bad");
        assert_eq!(case.state(), ProxyState::Synced);
        assert!(case.session.report(case.now).kinds[0].refusals.is_empty());
    }
}

#[test]
fn going_back_to_what_was_taken_ends_a_refusal() {
    let mut case = synced(Delta, Form::Outrigger);
    case.set(&[(Cds, "a", 1), (Eds, "a", 1), (Lds, "in", 1), (Rds, "r", 2)]);
    let push = case.sends("Route r");
    case.nack(&push, &["r"]);
    assert_eq!(case.session.progress(case.now), (ProxyState::Refused, 2, Some(1)));
    case.set(&MESH);
    case.sends_and_is_taken("Route r");
    assert_eq!(case.session.progress(case.now), (ProxyState::Synced, 3, Some(3)));
}

#[test]
fn a_response_refused_as_a_whole_is_tried_again_when_one_of_it_changes() {
    let mut case = Case::new(Delta, Form::Grpc, &[(Rds, "x", 1), (Rds, "y", 1), (Rds, "z", 1)]);
    case.ask(Rds, &["x", "y"]);
    let push = case.sends("Route x y");
    case.nack(&push, &[""]);
    case.ask(Rds, &["z"]);
    case.sends_and_is_taken("Route z");
    case.set(&[(Rds, "x", 1), (Rds, "y", 1), (Rds, "z", 2)]);
    case.sends_and_is_taken("Route z");
    case.set(&[(Rds, "x", 2), (Rds, "y", 1), (Rds, "z", 2)]);
    case.sends_and_is_taken("Route x y");
    assert_eq!(case.state(), ProxyState::Synced);
}

#[test]
fn a_route_refused_for_want_of_its_cluster_is_tried_again_when_clusters_are_taken() {
    let mut case = synced(Delta, Form::Outrigger);
    case.set(&[(Cds, "a", 2), (Eds, "a", 1), (Lds, "in", 1), (Rds, "r", 2)]);
    let push = case.sends("Cluster a");
    case.nack(&push, &["a"]);
    case.is_silent();
    case.wait(ORDER_WAIT);
    let push = case.sends("Route r");
    case.nack(&push, &["r"]);
    case.set(&[(Cds, "a", 3), (Eds, "a", 1), (Lds, "in", 1), (Rds, "r", 2)]);
    case.sends_and_is_taken("Cluster a");
    case.sends_and_is_taken("Route r");
    assert_eq!(case.state(), ProxyState::Synced);
}

#[test]
fn a_response_without_an_answer_is_noticed() {
    let mut case = Case::new(Delta, Form::Outrigger, &[(Cds, "a", 1)]);
    case.ask(Cds, &[]);
    case.sends("Cluster a");
    case.wait(ANSWER_WAIT - Duration::from_millis(1));
    assert_eq!(case.session.unanswered(case.now), None);
    case.wait(Duration::from_millis(1));
    assert_eq!(case.session.unanswered(case.now), Some(Cds));
}
