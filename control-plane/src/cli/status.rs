//! `status`: where each proxy stands.

use super::args::{Output, StatusArgs};
use super::changes::query;
use super::table::{age, plain, table};
use super::{CommandError, Done, json, no_yaml, settings};
use crate::api::wire::{FileStatus, ProxyBody, StatusBody, SyncBody};

pub(super) async fn status(args: StatusArgs) -> Result<Done, CommandError> {
    no_yaml(args.output)?;
    let client = settings::client(&args.server)?;
    let synced = match args.wait {
        Some(generation) => {
            let millis = args.timeout.as_millis();
            let path = format!("/v1/sync?generation={generation}&timeoutMs={millis}");
            Some(client.get::<SyncBody>(&path).await?)
        }
        None => None,
    };
    let mine = |proxy: &&ProxyBody| args.proxy.as_ref().is_none_or(|wanted| *wanted == proxy.proxy);
    let problems = synced.as_ref().map(|synced| told(synced, &mine)).unwrap_or_default();
    let failed = !problems.is_empty();
    if let Some(proxy) = &args.proxy {
        let parts = proxy.split_once('/');
        let (namespace, name) =
            parts.ok_or_else(|| CommandError::Other("a proxy is named NAMESPACE/NAME".to_owned()))?;
        let path = format!("/v1/proxies/{}/{}", query(namespace), query(name));
        let proxies: Vec<ProxyBody> = client.get(&path).await?;
        let out = match args.output {
            Output::Json => json(&proxies),
            Output::Table | Output::Yaml => rows(&proxies),
        };
        return Ok(Done { out, problems, failed });
    }
    let status: StatusBody = client.get("/v1/status").await?;
    let out = match args.output {
        Output::Json => json(&status),
        Output::Table | Output::Yaml => overview(&status),
    };
    Ok(Done { out, problems, failed })
}

/// Who did not take a generation.
fn told(synced: &SyncBody, mine: &dyn Fn(&&ProxyBody) -> bool) -> String {
    let generation = synced.generation;
    let refused =
        synced.refused.iter().filter(mine).map(|one| format!("error: {} refused generation {generation}\n", one.proxy));
    let waiting = synced
        .waiting
        .iter()
        .filter(mine)
        .map(|one| format!("error: {} has not answered generation {generation}\n", one.proxy));
    refused.chain(waiting).collect()
}

fn overview(status: &StatusBody) -> String {
    let mut out = format!("generation {}, {} objects", status.generation, status.objects);
    if status.published != status.generation {
        out.push_str(&format!(", being compiled; proxies are given {}", status.published));
    }
    out.push('\n');
    if let Some(directory) = &status.directory {
        let bad: Vec<&FileStatus> = directory.files.iter().filter(|file| !file.problems.is_empty()).collect();
        out.push_str(&format!("directory {}: {} files", directory.path, directory.files.len()));
        if !bad.is_empty() {
            out.push_str(&format!(", {} with problems", bad.len()));
        }
        out.push('\n');
        for file in bad {
            let whose = if file.namespaces.is_empty() { "nobody known".to_owned() } else { file.namespaces.join(", ") };
            out.push_str(&format!("\n{} (of {whose}):\n", file.file));
            for problem in &file.problems {
                out.push_str(&problem.render());
            }
        }
    }
    out.push('\n');
    out + &rows(&status.proxies)
}

fn rows(proxies: &[ProxyBody]) -> String {
    if proxies.is_empty() {
        return "no proxy has connected\n".to_owned();
    }
    let cells: Vec<Vec<String>> = proxies
        .iter()
        .map(|proxy| {
            let accepted = proxy.accepted.map_or_else(|| "none".to_owned(), |accepted| accepted.to_string());
            vec![
                proxy.proxy.clone(),
                proxy.state.clone(),
                proxy.generation.to_string(),
                accepted,
                age(proxy.age_ms),
                plain(&proxy.node),
                plain(&proxy.program),
            ]
        })
        .collect();
    let mut out = table(&["PROXY", "STATE", "GENERATION", "ACCEPTED", "AGE", "NODE", "PROGRAM"], &cells);
    for proxy in proxies {
        for refusal in &proxy.refusals {
            let or = |text: &str, other: &str| if text.is_empty() { other.to_owned() } else { plain(text) };
            let (resource, field) = (or(&refusal.resource, "(not named)"), or(&refusal.field, "(not named)"));
            out.push_str(&format!(
                "\n{} refused {} {resource}\n  field:  {field}\n  reason: {}\n",
                proxy.proxy,
                refusal.kind,
                plain(&refusal.reason)
            ));
        }
        if !proxy.left_out.is_empty() {
            out.push_str(&format!("\n{} is no proxy of ours, and is not told of\n", proxy.proxy));
            for what in proxy.left_out.iter().take(MOST_LEFT_OUT) {
                out.push_str(&format!("  {}\n", plain(what)));
            }
            let more = proxy.left_out.len().saturating_sub(MOST_LEFT_OUT);
            if more > 0 {
                out.push_str(&format!("  and {more} more: `get` it with `-o json`\n"));
            }
        }
    }
    out
}

/// How much of what a proxy is not told is shown.
const MOST_LEFT_OUT: usize = 20;
