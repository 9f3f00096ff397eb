//! `token create`, `list`, `revoke`.

use serde_json::Value;

use super::args::{Output, TokenCommand};
use super::changes::query;
use super::table::{plain, table};
use super::{CommandError, Done, json, no_yaml, settings};
use crate::api::wire::{CreatedToken, JoinTokenRequest, TokenBody, TokenRequest};

pub(super) async fn token(command: TokenCommand) -> Result<Done, CommandError> {
    match command {
        TokenCommand::Create { name, role, namespaces, join, valid_for, server, output } => {
            no_yaml(output)?;
            let client = settings::client(&server)?;
            let valid_for_seconds = valid_for.map(|time| time.as_secs());
            let created: CreatedToken = match join {
                Some(workload) => {
                    client.post("/v1/join-tokens", &JoinTokenRequest { workload, valid_for_seconds }).await?
                }
                None => {
                    let name = name.unwrap_or_default();
                    client.post("/v1/tokens", &TokenRequest { name, role, namespaces, valid_for_seconds }).await?
                }
            };
            if output == Output::Json {
                return Ok(Done::ok(json(&created)));
            }
            // Only the token on standard output, so that it can be put into a file or a variable.
            let until = created.expires.unwrap_or_else(|| "it is revoked".to_owned());
            let problems = format!("id {}, good until {until}; it is not shown again\n", created.id);
            Ok(Done { out: created.token + "\n", problems, failed: false })
        }
        TokenCommand::List { server, output } => {
            no_yaml(output)?;
            let found: Vec<TokenBody> = settings::client(&server)?.get("/v1/tokens").await?;
            if output == Output::Json {
                return Ok(Done::ok(json(&found)));
            }
            let rows: Vec<Vec<String>> = found.iter().map(row).collect();
            Ok(Done::ok(table(&["ID", "ROLE", "NAME", "NAMESPACES", "STATE", "EXPIRES", "CREATED BY"], &rows)))
        }
        TokenCommand::Revoke { id, server } => {
            let _: Value = settings::client(&server)?.delete(&format!("/v1/tokens/{}", query(&id))).await?;
            Ok(Done::ok(format!("revoked {id}\n")))
        }
    }
}

fn row(token: &TokenBody) -> Vec<String> {
    vec![
        token.id.clone(),
        token.role.clone(),
        plain(&token.name),
        token.namespaces.join(","),
        token.state.clone(),
        token.expires.clone().unwrap_or_else(|| "never".to_owned()),
        plain(&token.created_by),
    ]
}
