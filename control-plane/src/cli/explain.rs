//! `explain`: where a request of a proxy goes.

use super::args::{ExplainArgs, Output};
use super::changes::query;
use super::table::table;
use super::{CommandError, Done, json, no_yaml, settings};
use crate::api::wire::{ExplainRequest, Story};
use crate::engine::Decision;

pub(super) async fn explain(args: ExplainArgs) -> Result<Done, CommandError> {
    no_yaml(args.output)?;
    let parts = args.proxy.split_once('/');
    let (namespace, name) = parts.ok_or_else(|| CommandError::Other("a proxy is named NAMESPACE/NAME".to_owned()))?;
    let (method, url) = match &args.request[..] {
        [method, url, ..] => (Some(method.clone()), url.clone()),
        [url] => (None, url.clone()),
        [] => return Err(CommandError::Other("the URL is missing".to_owned())),
    };
    let request = ExplainRequest { method, url, headers: args.headers, listener: args.listener };
    let path = format!("/v1/proxies/{}/{}/explain", query(namespace), query(name));
    let story: Story = settings::client(&args.server)?.post(&path, &request).await?;
    Ok(Done::ok(if args.output == Output::Json { json(&story) } else { text(&story) }))
}

fn text(story: &Story) -> String {
    let Story { proxy, generation, method, host, path, listener, authorization, virtual_host, rules, decision } = story;
    let mut out = format!("{method} {host}{path} from {proxy}, generation {generation}\n\n");
    out.push_str(&format!("listener  {} ({})  {}\n", listener.name, listener.why, listener.place));
    if let Some(policy) = authorization {
        out.push_str(&format!("policy    {} ({})  {}\n", policy.name, policy.why, policy.place));
    }
    match virtual_host {
        Some(part) => out.push_str(&format!("host      {} ({})  {}\n", part.name, part.why, part.place)),
        None => out.push_str("host      no hostname covers it\n"),
    }
    for rule in rules {
        let mark = if rule.won { "takes" } else { "not" };
        out.push_str(&format!("{mark:<9} {}  {}\n", rule.name, rule.place));
        out.extend(rule.why.iter().map(|why| format!("            {why}\n")));
    }
    out.push('\n');
    match decision {
        Decision::NoRoute => out.push_str("no rule takes it: the proxy answers 404\n"),
        Decision::Redirect { status } => out.push_str(&format!("answered with a redirect, {status}\n")),
        Decision::Direct { status } => out.push_str(&format!("answered by the proxy, {status}\n")),
        Decision::Forward { backends, filters, settings } => {
            let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
            for backend in backends {
                let share = if total == 0 { 0.0 } else { f64::from(backend.weight) * 100.0 / total as f64 };
                let tls = if backend.tls { ", TLS" } else { "" };
                out.push_str(&format!("to        {} ({share:.1} %{tls})  {}\n", backend.cluster, backend.place));
                out.extend(backend.endpoints.iter().map(|endpoint| format!("            {endpoint}\n")));
                out.extend(backend.filters.iter().map(|filter| format!("            {filter}\n")));
            }
            out.extend(filters.iter().map(|filter| format!("filter    {filter}\n")));
            out.push('\n');
            let rows: Vec<Vec<String>> = settings
                .iter()
                .map(|setting| vec![setting.name.clone(), setting.value.clone(), setting.set_by.clone()])
                .collect();
            out.push_str(&table(&["SETTING", "VALUE", "SET BY"], &rows));
        }
    }
    out
}
