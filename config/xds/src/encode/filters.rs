//! The filters of a listener, in the order in which our own proxy does the same: tokens, rules, the authorizer outside, CORS.

use outrigger_config::model::Listener;

use super::{Policies, access, tokens};
use crate::pb::{self, hcm, http_cors, router};
use crate::wire;

pub(super) fn http(listener: &Listener, policies: &Policies<'_>) -> Vec<hcm::HttpFilter> {
    let mut out = Vec::new();
    if let Some(jwt) = &listener.jwt {
        out.push(tokens::filter(jwt, policies));
    }
    if let Some(policy) = listener.authorization.as_ref().and_then(|name| policies.authorization.get(name)) {
        out.extend(access::filters(policy, policies));
    }
    let authorizer = listener.external_authorization.as_ref();
    if let Some(authorizer) = authorizer.and_then(|name| policies.external_authorizers.get(name)) {
        out.push(tokens::authorizer(authorizer));
    }
    out.push(filter(pb::CORS, wire::any(&http_cors::Cors {})));
    out.push(self::router());
    out
}

pub(super) fn router() -> hcm::HttpFilter {
    filter("envoy.filters.http.router", wire::any(&router::Router::default()))
}

fn filter(name: &str, config: pb::Any) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}
