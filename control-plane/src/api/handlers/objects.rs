//! Objects in force.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::convert;
use crate::api::Api;
use crate::api::body::Asked;
use crate::api::error::ApiError;
use crate::api::wire::{ErrorBody, ObjectBody};
use crate::manifest::Kind;

/// Which objects.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct Wanted {
    /// Of this kind, in whatever case, singular or plural: `HTTPRoute`, `httproutes`.
    kind: Option<String>,
    /// Of this namespace.
    namespace: Option<String>,
    /// Of this name.
    name: Option<String>,
}

/// Objects of the latest generation, with their conditions.
#[utoipa::path(get, path = "/v1/objects", tag = "objects", params(Wanted),
    responses((status = 200, body = Vec<ObjectBody>), (status = 400, body = ErrorBody)))]
pub(in crate::api) async fn list(
    State(api): State<Api>,
    Asked(wanted): Asked<Wanted>,
) -> Result<Json<Vec<ObjectBody>>, ApiError> {
    let kind = wanted.kind.as_deref().map(named).transpose()?;
    let view = api.engine().view();
    let objects = view.objects().filter(|(id, _)| {
        kind.is_none_or(|kind| id.kind == kind)
            && wanted.namespace.as_deref().is_none_or(|namespace| id.namespace() == namespace)
            && wanted.name.as_deref().is_none_or(|name| &*id.name.name == name)
    });
    let bodies = objects.map(|(id, held)| ObjectBody {
        object: convert::object(id),
        place: format!("{}:{}", held.document.name, held.document.line),
        origin: held.origin.as_str().to_owned(),
        since: held.since,
        text: held.document.text.to_string(),
        status: view.status(id).and_then(|status| serde_json::to_value(status).ok()).unwrap_or_default(),
    });
    Ok(Json(bodies.collect()))
}

/// A kind as people write it.
fn named(text: &str) -> Result<Kind, ApiError> {
    let wanted = text.to_ascii_lowercase();
    let is = |kind: &Kind| {
        let word = kind.as_str().to_ascii_lowercase();
        let plural = word.strip_suffix('y').map_or_else(|| format!("{word}s"), |stem| format!("{stem}ies"));
        wanted == word || wanted == plural
    };
    Kind::ALL.into_iter().find(is).ok_or_else(|| {
        let kinds = Kind::ALL.map(Kind::as_str).join(", ");
        ApiError::malformed(format!("there is no kind `{text}`; there are {kinds}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_as_people_write_them() {
        assert_eq!(named("HTTPRoute").expect("a kind"), Kind::HttpRoute);
        assert_eq!(named("httproutes").expect("a kind"), Kind::HttpRoute);
        assert_eq!(named("trafficpolicies").expect("a kind"), Kind::TrafficPolicy);
        assert!(named("pods").expect_err("no kind").message.contains("HTTPRoute"));
    }
}
