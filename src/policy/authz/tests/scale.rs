//! The index decides as trying every rule in order does.

use proptest::prelude::*;

use super::*;

fn source() -> impl Strategy<Value = AccessSource> {
    let id = proptest::sample::select(
        &["spiffe://m/ns/a/sa/x", "spiffe://m/ns/a/sa/y", "spiffe://m/ns/b/sa/x", "spiffe://m/ns/a/*"][..],
    );
    let (space, other) = (proptest::sample::select(&["a", "b"][..]), proptest::sample::select(&["a", "b"][..]));
    prop_oneof![
        3 => proptest::collection::vec(id, 1..3).prop_map(|texts| AccessSource { identities: ids(&texts), ..Default::default() }),
        2 => space.prop_map(|name| AccessSource { namespaces: names(&[name]), ..Default::default() }),
        1 => other.prop_map(|name| AccessSource { not_namespaces: names(&[name]), ..Default::default() }),
    ]
}

fn operation() -> impl Strategy<Value = AccessOperation> {
    let path = proptest::sample::select(&["/a", "/b/*", "/*", "~/a.*", "/a:b", "/a;v=1", "//a"][..]);
    let service = proptest::option::of(proptest::sample::select(&["a", "b"][..]));
    prop_oneof![
        4 => proptest::collection::vec(path, 1..3).prop_map(|texts| AccessOperation { paths: paths(&texts), ..Default::default() }),
        1 => service.prop_map(|service| AccessOperation { grpc: grpc(service, Some("x")), ..Default::default() }),
        1 => Just(AccessOperation { methods: vec![Method::POST], ..Default::default() }),
    ]
}

fn access_rule() -> impl Strategy<Value = AccessRule> {
    let action = proptest::sample::select(&[AccessAction::Allow, AccessAction::Deny, AccessAction::Audit][..]);
    let from = proptest::collection::vec(source(), 0..3);
    let to = proptest::collection::vec(operation(), 0..3);
    (action, proptest::bool::weighted(0.2), from, to)
        .prop_filter("a rule about something", |(_, _, from, to)| !(from.is_empty() && to.is_empty()))
        .prop_map(|(action, shadow, from, to)| AccessRule { shadow, from, to, ..rule(action, "r") })
}

/// One policy for each rule is never indexed.
fn by_hand(rules: &[AccessRule], ask: &Ask) -> Option<Decision> {
    let holds = |rule: &AccessRule| {
        let rule = AccessRule { shadow: false, ..rule.clone() };
        let default = if rule.action == AccessAction::Allow { Access::Deny } else { Access::Allow };
        let decision = ask.decided(&policy(default, vec![rule]))?;
        Some(decision.rule.is_some() || !decision.audits.is_empty())
    };
    let held: Vec<bool> = rules.iter().map(holds).collect::<Option<_>>()?;
    let all = |action, shadow: Option<bool>| -> Vec<RuleId> {
        let fits = |rule: &AccessRule| rule.action == action && shadow.is_none_or(|shadow| shadow == rule.shadow);
        (0..).zip(rules).filter(|(id, rule)| held[*id as usize] && fits(rule)).map(|(id, _)| RuleId(id)).collect()
    };
    let first = |action, shadow| all(action, Some(shadow)).first().copied();
    let denied = first(AccessAction::Deny, false);
    let allowed = first(AccessAction::Allow, false).filter(|_| denied.is_none());
    let access = if allowed.is_some() { Access::Allow } else { Access::Deny };
    let (would_deny, would_allow) = (first(AccessAction::Deny, true), first(AccessAction::Allow, true));
    let shadow = match access {
        Access::Allow => would_deny,
        Access::Deny => would_allow.filter(|_| denied.is_none() && would_deny.is_none()),
    };
    Some(Decision { access, rule: denied.or(allowed), shadow, audits: all(AccessAction::Audit, None).into() })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_index_finds_what_an_ordered_scan_finds(
        rules in proptest::collection::vec(access_rule(), 20..60),
        asks in proptest::collection::vec(
            (
                proptest::option::of(proptest::sample::select(&["spiffe://m/ns/a/sa/x", "spiffe://m/ns/b/sa/y", "spiffe://o/z"][..])),
                proptest::sample::select(&["/a", "/a;v=1", "/b/c", "/a%3Ab", "/x%2F..%2Fb", "/b;/x", "/a/x", "//a", "*"][..]),
                any::<bool>(),
            ),
            4,
        ),
    ) {
        let policy = policy(Access::Deny, rules.clone());
        for (id, target, post) in asks {
            let mut ask = get(target).method(if post { "POST" } else { "GET" });
            ask.id = id.map(|id| SpiffeId::parse(id).expect("an identity"));
            prop_assert_eq!(ask.decided(&policy), by_hand(&rules, &ask), "{:?}", ask);
        }
    }
}
