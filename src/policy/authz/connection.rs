//! Who may connect, where nothing of what is sent is understood.
//!
//! Only who connects, from where and to which port is known. A condition on anything of HTTP then lets nobody in and
//! stands in nobody's favour: a rule that allows does not hold, a rule that denies holds whatever the condition says.

use std::net::IpAddr;

use outrigger_config::model::{AccessAction, AccessOperation};
use outrigger_config::spiffe::SpiffeId;

use super::rule::{Need, Operation, Rule};
use super::{Decision, Policy, RuleId};

/// What authorization reads of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Connection<'a> {
    /// The caller's verified identity.
    pub identity: Option<&'a SpiffeId>,
    /// The address of its other end.
    pub address: IpAddr,
    /// The port that it was made to.
    pub port: u16,
}

impl Policy {
    /// Decides about a connection.
    #[must_use]
    pub fn decide_connection(&self, connection: &Connection<'_>) -> Decision {
        let all = || (0..).zip(&self.config.rules).zip(&self.rules);
        let mut decision = self.outcome(|action, shadow, need| {
            let mut wanted = all().filter(|((_, config), _)| config.action == action && config.shadow == shadow);
            wanted.find(|(_, rule)| rule.lets(connection, need)).map(|((id, _), _)| RuleId(id))
        });
        let audits = all().filter(|((_, config), rule)| {
            config.action == AccessAction::Audit && rule.lets(connection, Need::Suspected)
        });
        decision.audits.extend(audits.map(|((id, _), _)| RuleId(id)));
        decision
    }
}

impl Rule {
    fn lets(&self, connection: &Connection<'_>, need: Need) -> bool {
        let from = |source: &super::rule::Source| source.fits(connection.identity, connection.address);
        (self.from.is_empty() || self.from.iter().any(from))
            && (self.to.is_empty() || self.to.iter().any(|operation| operation.fits(connection.port, need)))
            // There is no token.
            && (self.claims.is_empty() || need == Need::Suspected)
    }
}

impl Operation {
    fn fits(&self, port: u16, need: Need) -> bool {
        let AccessOperation {
            hosts,
            not_hosts,
            paths,
            not_paths,
            methods,
            not_methods,
            ports,
            not_ports,
            headers,
            grpc,
        } = &self.config;
        let http = !(hosts.is_empty()
            && not_hosts.is_empty()
            && paths.is_empty()
            && not_paths.is_empty()
            && methods.is_empty()
            && not_methods.is_empty()
            && headers.is_empty()
            && grpc.is_empty());
        (ports.is_empty() || ports.contains(&port)) && !not_ports.contains(&port) && (!http || need == Need::Suspected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_config::model::Access;

    fn policy(yaml: &str) -> Policy {
        let text = format!(
            "listeners: [{{ name: l, bind: 127.0.0.1:0, routes: r, authorization: a }}]\n\
             routes: {{ r: [{{ rules: [{{ backendRefs: [{{ cluster: c }}] }}] }}] }}\n\
             clusters: {{ c: {{ endpoints: [127.0.0.1:1] }} }}\n\
             authorization:\n  a:\n    {yaml}\n"
        );
        Policy::compile(&outrigger_config::load("test.yaml", &text).expect("valid").config.authorization["a"])
    }

    fn decided(policy: &Policy, id: Option<&str>, address: [u8; 4], port: u16) -> Access {
        let identity = id.map(|id| SpiffeId::parse(id).expect("an identity"));
        let connection = Connection { identity: identity.as_ref(), address: address.into(), port };
        policy.decide_connection(&connection).access
    }

    const CART: Option<&str> = Some("spiffe://mesh.local/ns/shop/sa/cart");

    #[test]
    fn identity_address_and_port_decide() {
        let policy = policy(
            "{ default: deny, rules: [\
             { name: cart, action: allow, from: [{ identities: [\"spiffe://mesh.local/ns/shop/sa/cart\"] }], to: [{ ports: [5432] }] }, \
             { name: net, action: allow, from: [{ addresses: [10.1.0.0/16] }] }, \
             { name: not, action: deny, from: [{ addresses: [10.1.9.0/24] }] }] }",
        );
        assert_eq!(decided(&policy, CART, [192, 0, 2, 1], 5432), Access::Allow);
        assert_eq!(decided(&policy, CART, [192, 0, 2, 1], 5433), Access::Deny);
        assert_eq!(decided(&policy, None, [192, 0, 2, 1], 5432), Access::Deny);
        assert_eq!(decided(&policy, None, [10, 1, 2, 3], 1), Access::Allow);
        assert_eq!(decided(&policy, CART, [10, 1, 9, 3], 5432), Access::Deny);
    }

    #[test]
    fn what_needs_http_allows_nothing_and_denies_what_it_may() {
        for condition in ["paths: [{ prefix: / }]", "methods: [GET]", "notPaths: [{ prefix: /x }]", "hosts: [\"*\"]"] {
            let allow = policy(&format!(
                "{{ default: deny, rules: [{{ name: a, action: allow, to: [{{ ports: [1], {condition} }}] }}] }}"
            ));
            assert_eq!(decided(&allow, CART, [10, 0, 0, 1], 1), Access::Deny, "{condition}");
            let deny = policy(&format!(
                "{{ default: allow, rules: [{{ name: d, action: deny, to: [{{ ports: [1], {condition} }}] }}] }}"
            ));
            assert_eq!(decided(&deny, CART, [10, 0, 0, 1], 1), Access::Deny, "{condition}");
            assert_eq!(decided(&deny, CART, [10, 0, 0, 1], 2), Access::Allow, "{condition}");
        }
    }
}
