//! How a cluster chooses among its endpoints.

use outrigger_config::model::{BalancePolicy, SlowStart, SubsetFallback};

use super::super::fitness;
use super::super::reader::At;
use crate::pb::cluster;

/// The options of a policy.
pub(super) fn options(at: &At<'_>, message: Option<&cluster::cluster::LbConfig>) -> Option<SlowStart> {
    use cluster::cluster::{LbConfig, LeastRequestLbConfig, MaglevLbConfig, RingHashLbConfig, RoundRobinLbConfig};
    match message {
        None => None,
        Some(LbConfig::LeastRequestLbConfig(message)) => {
            let at = at.field("least_request_lb_config");
            unpack!(at, message => LeastRequestLbConfig {
                take: [choice_count, slow_start_config],
                ignore: [],
                refuse: [active_request_bias],
            });
            if choice_count.as_ref().is_some_and(|count| count.value != 2) {
                at.field("choice_count").refuse("two are compared; remove it");
            }
            fitness::slow_start(&at, slow_start_config.as_ref())
        }
        Some(LbConfig::RoundRobinLbConfig(message)) => {
            let at = at.field("round_robin_lb_config");
            unpack!(at, message => RoundRobinLbConfig { take: [slow_start_config], ignore: [], refuse: [] });
            fitness::slow_start(&at, slow_start_config.as_ref())
        }
        Some(LbConfig::RingHashLbConfig(message)) => {
            unpack!(at, message => RingHashLbConfig {
                take: [],
                ignore: [
                    minimum_ring_size, // tuning
                    hash_function, // which endpoint a value leads to is each proxy's own
                    maximum_ring_size, // tuning
                ],
                refuse: [],
            });
            None
        }
        Some(LbConfig::MaglevLbConfig(message)) => {
            unpack!(at, message => MaglevLbConfig {
                take: [],
                ignore: [table_size], // tuning
                refuse: [],
            });
            None
        }
        Some(LbConfig::OriginalDstLbConfig(_)) => {
            at.field("original_dst_lb_config").refuse("this is not supported");
            None
        }
    }
}

pub(super) fn policy(at: &At<'_>, policy: i32, typed: Option<&cluster::LoadBalancingPolicy>) -> BalancePolicy {
    use cluster::cluster::LbPolicy;
    if let Some(typed) = typed {
        return self::typed(&at.field("load_balancing_policy"), typed);
    }
    match LbPolicy::try_from(policy) {
        Ok(LbPolicy::RoundRobin) => BalancePolicy::RoundRobin,
        Ok(LbPolicy::LeastRequest) => BalancePolicy::LeastRequest,
        Ok(LbPolicy::Random) => BalancePolicy::Random,
        Ok(LbPolicy::RingHash) => BalancePolicy::RingHash,
        Ok(LbPolicy::Maglev) => BalancePolicy::Maglev,
        Ok(LbPolicy::ClusterProvided | LbPolicy::LoadBalancingPolicyConfig) | Err(_) => {
            at.field("lb_policy").refuse("this is not supported; use one of the policies that have a name here");
            BalancePolicy::LeastRequest
        }
    }
}

/// What is done when no endpoint has the labels of a route.
pub(super) fn subsets(at: &At<'_>, message: Option<&cluster::cluster::LbSubsetConfig>) -> SubsetFallback {
    use cluster::cluster::lb_subset_config::LbSubsetFallbackPolicy;
    let Some(message) = message else { return SubsetFallback::None };
    let at = at.field("lb_subset_config");
    unpack!(at, message => cluster::cluster::LbSubsetConfig {
        take: [fallback_policy, metadata_fallback_policy],
        ignore: [
            subset_selectors, // any labels can be asked for
            locality_weight_aware, // weights of localities are refused
            scale_locality_weight, // likewise
        ],
        refuse: [default_subset, panic_mode_any, list_as_any],
    });
    if *metadata_fallback_policy != 0 {
        at.field("metadata_fallback_policy").refuse("this is not supported; remove it");
    }
    match LbSubsetFallbackPolicy::try_from(*fallback_policy) {
        Ok(LbSubsetFallbackPolicy::NoFallback) => SubsetFallback::None,
        Ok(LbSubsetFallbackPolicy::AnyEndpoint) => SubsetFallback::Any,
        Ok(LbSubsetFallbackPolicy::DefaultSubset) | Err(_) => {
            at.field("fallback_policy").refuse("this is NO_FALLBACK or ANY_ENDPOINT");
            SubsetFallback::None
        }
    }
}

/// The first policy that is known, as Envoy takes it.
pub(super) fn typed(at: &At<'_>, message: &cluster::LoadBalancingPolicy) -> BalancePolicy {
    const PREFIX: &str = "envoy.extensions.load_balancing_policies.";
    unpack!(at, message => cluster::LoadBalancingPolicy { take: [policies], ignore: [], refuse: [] });
    for (index, policy) in policies.iter().enumerate() {
        let at = at.item("policies", index).field("typed_extension_config");
        let Some(any) = policy.typed_extension_config.as_ref().and_then(|config| config.typed_config.as_ref()) else {
            at.refuse("the policy has no configuration");
            continue;
        };
        let kind = any.type_url.rsplit('/').next().and_then(|name| name.strip_prefix(PREFIX)).unwrap_or(&any.type_url);
        let found = match kind {
            "round_robin.v3.RoundRobin" => BalancePolicy::RoundRobin,
            "least_request.v3.LeastRequest" => BalancePolicy::LeastRequest,
            "random.v3.Random" => BalancePolicy::Random,
            "ring_hash.v3.RingHash" => BalancePolicy::RingHash,
            "maglev.v3.Maglev" => BalancePolicy::Maglev,
            other => {
                at.refuse(format!(
                    "the policy `{other}` is not supported; use round robin, least request, random, ring hash or maglev"
                ));
                continue;
            }
        };
        if !any.value.is_empty() {
            at.field("typed_config").refuse("options of the policy are not supported; leave them out");
        }
        return found;
    }
    BalancePolicy::RoundRobin
}
