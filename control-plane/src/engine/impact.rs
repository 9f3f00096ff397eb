//! What a change means for proxies, from their configurations before and after.
//!
//! Which changes end connections and which make pools anew are the proxy's rules: a listener that moves or whose TLS
//! becomes another drains its connections, and a pool is known by everything that its connections are made with.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use outrigger_config::diff::{Changed, Changes, Diff};
use outrigger_config::model::Config;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::compile::ProxyConfig;

/// Proxies that are listed one by one.
const MAX_LISTED: usize = 100;
/// Lines of one proxy.
const MAX_LINES: usize = 200;

/// What a change means for the proxies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Impact {
    /// In one line: `3 routes on 12 proxies, 0 connections dropped, 2 pools rebuilt`.
    pub summary: String,
    /// Rules of routes that are new, different or gone, each counted once.
    pub routes: usize,
    /// Proxies whose configuration changes.
    pub proxies: usize,
    /// Listeners whose connections are drained, of all proxies. Nothing else ends a connection.
    pub drained_listeners: usize,
    /// Pools of connections that are made anew, of all proxies. The old ones finish what they carry.
    pub rebuilt_pools: usize,
    /// Each proxy whose configuration changes, at most 100.
    pub per_proxy: Vec<ProxyImpact>,
    /// Proxies that are not listed.
    pub not_listed: usize,
}

/// What a change means for one proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProxyImpact {
    /// The workload, `namespace/name`.
    pub proxy: String,
    /// Rules that are new, different or gone.
    pub routes: usize,
    /// Endpoints that are new, different or gone.
    pub endpoints: usize,
    /// Listeners whose connections are drained.
    pub drained_listeners: Vec<String>,
    /// Clusters whose pools are made anew.
    pub rebuilt_pools: Vec<String>,
    /// One line for each thing that changes: `+` added, `-` removed, `~` changed. At most 200.
    pub lines: Vec<String>,
}

/// What can be had as a whole configuration.
pub(super) trait Whole {
    /// It.
    fn whole(&self) -> Config;
}

impl Whole for ProxyConfig {
    fn whole(&self) -> Config {
        self.config(None)
    }
}

/// Compares the configurations of all proxies, by workload. A proxy that is only in one of them is new or gone: it has no
/// connections to lose, or ends itself.
pub(super) fn impact<K: Ord + fmt::Display, C: Whole>(
    before: &BTreeMap<K, Arc<C>>,
    after: &BTreeMap<K, Arc<C>>,
) -> Impact {
    let mut impact = Impact::default();
    let mut rules: BTreeSet<String> = BTreeSet::new();
    let keys: BTreeSet<&K> = before.keys().chain(after.keys()).collect();
    for key in keys {
        let name = key.to_string();
        let one = match (before.get(key), after.get(key)) {
            (Some(before), Some(after)) if Arc::ptr_eq(before, after) => continue,
            (Some(before), Some(after)) => {
                let (before, after) = (before.whole(), after.whole());
                let diff = outrigger_config::diff(&before, &after);
                if diff.is_empty() {
                    continue;
                }
                rules.extend(changed_rules(&diff, &before, &after));
                of_one(name, &diff, (&before, &after))
            }
            (before, after) => {
                let line = if after.is_some() { "+ this proxy is new" } else { "- this proxy is gone" };
                let all = after.or(before).map(|config| all_rules(&config.whole())).unwrap_or_default();
                let routes = all.len();
                rules.extend(all);
                ProxyImpact { proxy: name, routes, lines: vec![line.to_owned()], ..ProxyImpact::default() }
            }
        };
        impact.proxies += 1;
        impact.drained_listeners += one.drained_listeners.len();
        impact.rebuilt_pools += one.rebuilt_pools.len();
        if impact.per_proxy.len() < MAX_LISTED {
            impact.per_proxy.push(one);
        } else {
            impact.not_listed += 1;
        }
    }
    impact.routes = rules.len();
    impact.summary = summary(&impact);
    impact
}

fn summary(impact: &Impact) -> String {
    let Impact { routes, proxies, drained_listeners, rebuilt_pools, .. } = impact;
    let plural = |count: usize, one: &str, many: &str| {
        if count == 1 { format!("1 {one}") } else { format!("{count} {many}") }
    };
    // How many connections a listener has is known to its proxy alone.
    let dropped = match drained_listeners {
        0 => "0 connections dropped".to_owned(),
        count => format!("the connections of {} drained", plural(*count, "listener", "listeners")),
    };
    format!(
        "{} on {}, {dropped}, {} rebuilt",
        plural(*routes, "route", "routes"),
        plural(*proxies, "proxy", "proxies"),
        plural(*rebuilt_pools, "pool", "pools")
    )
}

fn of_one(name: String, diff: &Diff, (before, after): (&Config, &Config)) -> ProxyImpact {
    let in_tables: usize = diff.rules.values().map(Changes::len).sum();
    let lines: Vec<String> = diff.to_string().lines().map(str::to_owned).collect();
    ProxyImpact {
        proxy: name,
        routes: in_tables + of_tables(&diff.tables, before, after).count(),
        endpoints: diff.endpoints.values().map(Changes::len).sum(),
        drained_listeners: drained(&diff.listeners),
        rebuilt_pools: rebuilt(&diff.clusters),
        lines: lines.into_iter().take(MAX_LINES).collect(),
    }
}

/// A listener that is gone, has moved, or speaks otherwise ends its connections, gradually.
fn drained(listeners: &Changes) -> Vec<String> {
    let ends = |changed: &&Changed| changed.parts.iter().any(|part| matches!(*part, "bind" | "protocol" | "tls"));
    let changed = listeners.changed.iter().filter(ends).map(|changed| changed.name.to_string());
    listeners.removed.iter().map(ToString::to_string).chain(changed).collect()
}

/// Connections are made with these; a cluster that is gone has no pool any more.
fn rebuilt(clusters: &Changes) -> Vec<String> {
    let anew = |changed: &&Changed| changed.parts.iter().any(|part| matches!(*part, "protocol" | "connection" | "tls"));
    clusters.changed.iter().filter(anew).map(|changed| changed.name.to_string()).collect()
}

/// Rules by table and name, so that one that many proxies have counts once.
fn changed_rules(diff: &Diff, before: &Config, after: &Config) -> Vec<String> {
    let in_tables = diff.rules.iter().flat_map(|(table, changes)| {
        let changed = changes.changed.iter().map(|changed| &changed.name);
        let names = changes.added.iter().chain(&changes.removed).chain(changed);
        names.map(move |name| format!("{table}/{name}"))
    });
    in_tables.chain(of_tables(&diff.tables, before, after)).collect()
}

/// Rules of tables that are new or gone.
fn of_tables<'a>(tables: &'a Changes, before: &'a Config, after: &'a Config) -> impl Iterator<Item = String> + 'a {
    let added = tables.added.iter().filter_map(|name| after.routes.get(name));
    let removed = tables.removed.iter().filter_map(|name| before.routes.get(name));
    added.chain(removed).flat_map(|table| {
        let rules = table.hosts.iter().flat_map(|host| &host.rules);
        rules.map(move |rule| format!("{}/{}", table.name, rule.name))
    })
}

fn all_rules(config: &Config) -> Vec<String> {
    let rules = config.routes.values().flat_map(|table| {
        let rules = table.hosts.iter().flat_map(|host| &host.rules);
        rules.map(move |rule| format!("{}/{}", table.name, rule.name))
    });
    rules.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Whole for Config {
        fn whole(&self) -> Config {
            self.clone()
        }
    }

    fn config(text: &str) -> Arc<Config> {
        Arc::new((*outrigger_config::load("proxy.yaml", text).expect("it is valid").config).clone())
    }

    const TEXT: &str = "
listeners: [{ name: outbound, bind: 127.0.0.1:1, routes: r }]
routes:
  r:
    - rules:
        - { name: a, matches: [{ path: { prefix: /a } }], backendRefs: [{ cluster: c }] }
        - { name: b, backendRefs: [{ cluster: c }] }
clusters: { c: { endpoints: [127.0.0.1:2] } }
";

    fn all(text: &str, count: usize) -> BTreeMap<String, Arc<Config>> {
        let config = config(text);
        (0..count).map(|at| (format!("shop/p{at:03}"), Arc::clone(&config))).collect()
    }

    #[test]
    fn a_rule_that_many_proxies_have_counts_once_and_costs_no_connection() {
        let changed = TEXT.replace("prefix: /a }", "prefix: /b }");
        let impact = impact(&all(TEXT, 120), &all(&changed, 120));
        assert_eq!(impact.summary, "1 route on 120 proxies, 0 connections dropped, 0 pools rebuilt");
        assert_eq!((impact.per_proxy.len(), impact.not_listed), (MAX_LISTED, 20));
        assert_eq!(impact.per_proxy[0].lines, ["~ rule r/a: matches"]);
    }

    #[test]
    fn what_connections_are_made_with_makes_pools_anew_and_a_moved_listener_drains() {
        let changed = TEXT.replace("c: { endpoints", "c: { protocol: http2, endpoints").replace("0.1:1,", "0.1:9,");
        let impact = impact(&all(TEXT, 2), &all(&changed, 2));
        assert_eq!(impact.summary, "0 routes on 2 proxies, the connections of 2 listeners drained, 2 pools rebuilt");
        assert_eq!(impact.per_proxy[1].drained_listeners, ["outbound"]);
        assert_eq!(impact.per_proxy[1].rebuilt_pools, ["c"]);
    }

    #[test]
    fn endpoints_rebuild_nothing_and_what_did_not_change_is_not_told() {
        let changed = TEXT.replace("127.0.0.1:2", "127.0.0.1:3");
        let changed = impact(&all(TEXT, 1), &all(&changed, 1));
        assert_eq!(changed.summary, "0 routes on 1 proxy, 0 connections dropped, 0 pools rebuilt");
        assert_eq!(changed.per_proxy[0].endpoints, 2);
        let moved_down = format!("# a line\n{TEXT}");
        assert_eq!(impact(&all(TEXT, 3), &all(&moved_down, 3)).proxies, 0);
    }
}
