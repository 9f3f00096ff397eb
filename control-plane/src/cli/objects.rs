//! `get`, `schema`, `crds`.

use serde_json::Value;

use super::args::{GetArgs, Output};
use super::changes::query;
use super::table::table;
use super::{CommandError, Done, json, no_yaml, settings};
use crate::api::wire::{ConfigBody, ObjectBody};
use crate::manifest::{self, Kind};

pub(super) async fn get(args: GetArgs) -> Result<Done, CommandError> {
    let client = settings::client(&args.server)?;
    if args.kind == "config" {
        no_yaml(args.output)?;
        let proxy = args.name.as_deref().and_then(|name| name.split_once('/'));
        let (namespace, name) =
            proxy.ok_or_else(|| CommandError::Other("whose configuration? `get config NAMESPACE/NAME`".to_owned()))?;
        let config: ConfigBody =
            client.get(&format!("/v1/proxies/{}/{}/config", query(namespace), query(name))).await?;
        return Ok(Done::ok(if args.output == Output::Json { json(&config) } else { resources(&config) }));
    }
    let mut asked = Vec::new();
    if args.kind != "all" {
        asked.push(format!("kind={}", query(&args.kind)));
    }
    asked.extend(args.namespace.iter().map(|namespace| format!("namespace={}", query(namespace))));
    asked.extend(args.name.iter().map(|name| format!("name={}", query(name))));
    let found: Vec<ObjectBody> = client.get(&format!("/v1/objects?{}", asked.join("&"))).await?;
    let failed = found.is_empty() && args.name.is_some();
    let problems = if failed { "error: there is none\n".to_owned() } else { String::new() };
    let out = match args.output {
        Output::Json => json(&found),
        Output::Yaml => {
            let texts: Vec<&str> = found.iter().map(|object| object.text.trim_end()).collect();
            if texts.is_empty() { String::new() } else { texts.join("\n---\n") + "\n" }
        }
        Output::Table if failed => String::new(),
        Output::Table => {
            let rows: Vec<Vec<String>> = found.iter().map(row).collect();
            table(&["KIND", "NAMESPACE", "NAME", "STATUS", "SINCE", "FROM", "PLACE"], &rows)
        }
    };
    Ok(Done { out, problems, failed })
}

fn row(body: &ObjectBody) -> Vec<String> {
    vec![
        body.object.kind.clone(),
        body.object.namespace.clone(),
        body.object.name.clone(),
        conditions(&body.status),
        body.since.to_string(),
        body.origin.clone(),
        body.place.clone(),
    ]
}

/// Conditions that do not hold, with their reasons; `ok` when all hold.
fn conditions(status: &Value) -> String {
    let mut failing = Vec::new();
    collect(status, &mut failing);
    if status["kept"] == true {
        failing.insert(0, "an earlier version is in force".to_owned());
    }
    if failing.is_empty() { "ok".to_owned() } else { failing.join(", ") }
}

fn collect(value: &Value, failing: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if map.get("status") == Some(&Value::Bool(false))
                && let (Some(kind), Some(reason)) = (map.get("type"), map.get("reason"))
            {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                // This one is a complaint when it holds.
                failing.push(format!("{}: {}", text(kind), text(reason)));
            }
            map.values().for_each(|value| collect(value, failing));
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, failing)),
        _ => {}
    }
}

fn resources(config: &ConfigBody) -> String {
    let rows: Vec<Vec<String>> = config
        .resources
        .iter()
        .map(|one| vec![one.kind.clone(), one.name.clone(), one.version.clone(), one.bytes.to_string()])
        .collect();
    let table = table(&["KIND", "NAME", "VERSION", "BYTES"], &rows);
    format!("{} at generation {}\n{table}", config.proxy, config.generation)
}

pub(super) fn schema(kind: Option<&str>) -> Result<Done, CommandError> {
    let Some(kind) = kind else { return Ok(Done::ok(json(&manifest::json_schemas()))) };
    let known = Kind::ALL.into_iter().find(|known| known.as_str().eq_ignore_ascii_case(kind));
    let known = known.ok_or_else(|| {
        let kinds = Kind::ALL.map(Kind::as_str).join(", ");
        CommandError::Other(format!("there is no kind `{kind}`; there are {kinds}"))
    })?;
    Ok(Done::ok(json(&manifest::json_schema(known))))
}

pub(super) fn crds() -> String {
    manifest::crds()
}
