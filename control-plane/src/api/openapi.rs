//! The description of the API.

use serde_json::Value;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::handlers::{authority, changes, explain, history, objects, open, proxies, tokens};
use super::metrics;

#[derive(OpenApi)]
#[openapi(
    info(title = "Outrigger control plane", description = "Manifests in, configuration of proxies out."),
    paths(
        open::health, open::ready, open::openapi, metrics::show,
        changes::apply, changes::delete, changes::rollback,
        history::list, history::one, history::audit,
        objects::list,
        proxies::overview, proxies::list, proxies::one, proxies::config, proxies::answers, proxies::sync,
        explain::explain,
        tokens::create, tokens::list, tokens::revoke, tokens::join,
        authority::status, authority::rotate,
    ),
    security(("bearer" = [])),
    modifiers(&Bearer),
)]
struct Document;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    }
}

/// The API in OpenAPI 3.1, as `/v1/openapi.json` serves it.
#[must_use]
pub fn openapi() -> Value {
    serde_json::to_value(Document::openapi()).unwrap_or_default()
}
