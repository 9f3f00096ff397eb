//! `ca status` and `ca rotate`.

use serde_json::Value;

use super::args::{Output, ServerArgs};
use super::{CommandError, Done, json, no_yaml, settings};
use crate::api::wire::RotateRequest;
use crate::store::Timestamp;

pub(super) async fn status(server: &ServerArgs, output: Output) -> Result<Done, CommandError> {
    no_yaml(output)?;
    let status: Value = settings::client(server)?.get("/v1/ca").await?;
    Ok(Done::ok(shown(&status, output)))
}

pub(super) async fn rotate(
    step: Option<String>,
    force: bool,
    server: &ServerArgs,
    output: Output,
) -> Result<Done, CommandError> {
    no_yaml(output)?;
    let request = RotateRequest { force, step };
    let status: Value = settings::client(server)?.post("/v1/ca/rotate", &request).await?;
    Ok(Done::ok(shown(&status, output)))
}

fn shown(status: &Value, output: Output) -> String {
    if output == Output::Json {
        return json(status);
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let signer = |signer: &Value| {
        let until = signer["notAfter"].as_i64().unwrap_or(0).saturating_mul(1_000);
        let fingerprint: String = text(&signer["fingerprint"]).chars().take(16).collect();
        format!("{fingerprint}, valid until {}", Timestamp::from_millis(until))
    };
    let list = |value: &Value| -> Vec<String> { value.as_array().into_iter().flatten().map(text).collect() };
    let mut out = format!("trust domain  {}\n", text(&status["trustDomain"]));
    out.push_str(&format!("phase         {}\n", text(&status["phase"])));
    out.push_str(&format!("signs         {}\n", signer(&status["signer"])));
    if !status["other"].is_null() {
        out.push_str(&format!("also believed {}\n", signer(&status["other"])));
    }
    out.push_str(&format!("next step     {}\n", text(&status["next"])));
    for objection in list(&status["objections"]) {
        out.push_str(&format!("not yet       {objection}\n"));
    }
    let silent = list(&status["silent"]);
    for proxy in list(&status["unconfirmed"]) {
        let why = if silent.contains(&proxy) { " (its roots are in files: it cannot confirm)" } else { "" };
        out.push_str(&format!("waiting for   {proxy}{why}\n"));
    }
    out
}
