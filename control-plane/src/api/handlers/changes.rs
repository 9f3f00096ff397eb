//! What changes the mesh: apply, delete, rollback; and the same as a dry run.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::{Extension, Json};

use super::convert;
use crate::api::access::Caller;
use crate::api::body::Body;
use crate::api::error::{ApiError, Code};
use crate::api::limits::{MAX_MESSAGE, MAX_PROBLEMS};
use crate::api::wire::{ApplyRequest, ChangeResponse, DeleteRequest, DocumentText, ErrorBody, RollbackRequest};
use crate::api::{Api, blocking};
use crate::engine::{Actor, Push, Refusal};
use crate::manifest::{Document, Kind, ObjectId};

/// Applies manifests: objects that are new are added, others changed. All are taken, or none.
#[utoipa::path(post, path = "/v1/apply", tag = "changes", request_body = ApplyRequest,
    responses((status = 200, body = ChangeResponse), (status = 422, body = ErrorBody, description = "Every problem."),
        (status = 403, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(in crate::api) async fn apply(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<ApplyRequest>,
) -> Result<Json<ChangeResponse>, ApiError> {
    let ApplyRequest { documents, message, dry_run, prune } = request;
    let push = Push {
        documents: read(documents),
        remove: Vec::new(),
        remove_documents: Vec::new(),
        prune,
        message: checked(message)?,
        dry_run,
    };
    change(api, caller, push).await
}

/// Removes objects. All are removed, or none.
#[utoipa::path(post, path = "/v1/delete", tag = "changes", request_body = DeleteRequest,
    responses((status = 200, body = ChangeResponse), (status = 404, body = ErrorBody, description = "One is not there."),
        (status = 403, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(in crate::api) async fn delete(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<DeleteRequest>,
) -> Result<Json<ChangeResponse>, ApiError> {
    let DeleteRequest { objects, documents, message, dry_run } = request;
    let remove = objects.into_iter().map(|object| {
        let kind = Kind::named(&object.kind)
            .ok_or_else(|| ApiError::malformed(format!("there is no kind `{}`", object.kind)))?;
        Ok(ObjectId::new(kind, &object.namespace, &object.name))
    });
    let push = Push {
        documents: Vec::new(),
        remove: remove.collect::<Result<_, ApiError>>()?,
        remove_documents: read(documents),
        prune: Vec::new(),
        message: checked(message)?,
        dry_run,
    };
    change(api, caller, push).await
}

async fn change(api: Api, caller: Caller, push: Push) -> Result<Json<ChangeResponse>, ApiError> {
    let engine = Arc::clone(api.engine());
    let applied = blocking(move || engine.apply(&actor(caller), &push)).await?;
    Ok(Json(convert::applied(applied.map_err(refused)?)))
}

/// Makes a new generation with the objects of an earlier one.
#[utoipa::path(post, path = "/v1/generations/{number}/rollback", tag = "changes", request_body = RollbackRequest,
    params(("number" = u64, Path, description = "The generation to bring back.")),
    responses((status = 200, body = ChangeResponse), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub(in crate::api) async fn rollback(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(number): Path<u64>,
    Body(request): Body<RollbackRequest>,
) -> Result<Json<ChangeResponse>, ApiError> {
    let RollbackRequest { message, dry_run } = request;
    let message = checked(message)?;
    let engine = Arc::clone(api.engine());
    let applied = blocking(move || engine.rollback(&actor(caller), number, &message, dry_run)).await?;
    Ok(Json(convert::applied(applied.map_err(refused)?)))
}

fn read(documents: Vec<DocumentText>) -> Vec<Document> {
    let name = |name: &str| name.chars().filter(|char| !char.is_control()).take(MAX_NAME).collect::<String>();
    documents.into_iter().map(|document| Document::new(&name(&document.name), &document.text)).collect()
}

/// Characters of the name of a document.
const MAX_NAME: usize = 512;

fn checked(message: String) -> Result<String, ApiError> {
    if message.len() > MAX_MESSAGE {
        return Err(ApiError::malformed(format!("the message is longer than {MAX_MESSAGE} bytes")));
    }
    Ok(message)
}

fn actor(caller: Caller) -> Actor {
    let Caller { who, role, from } = caller;
    Actor { who, role, from }
}

fn refused(refusal: Refusal) -> ApiError {
    match refusal {
        Refusal::Invalid { problems, left_out } => {
            let count = problems.len() + left_out;
            let message = match count {
                1 => "the manifests have a problem; nothing was changed".to_owned(),
                count => format!("the manifests have {count} problems; nothing was changed"),
            };
            let left_out = left_out + problems.len().saturating_sub(MAX_PROBLEMS);
            let problems = problems.iter().take(MAX_PROBLEMS).map(convert::problem).collect();
            ApiError { code: Code::Invalid, message, problems, left_out }
        }
        Refusal::Forbidden(message) => ApiError::new(Code::Forbidden, message),
        Refusal::Conflict(message) => ApiError::new(Code::Conflict, message),
        Refusal::NotFound(message) => ApiError::not_found(message),
        Refusal::Store(error) => error.into(),
    }
}
