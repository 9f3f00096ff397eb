//! Tests of reading and resolving manifests.

mod conditions;
mod loading;
mod problems;
mod schemas;

use super::{Document, Outcome, load};

pub(super) fn read(text: &str) -> Outcome {
    load(&[Document::new("m.yaml", text)], None)
}

/// Problems as `LINE:COLUMN MESSAGE`.
pub(super) fn said(outcome: &Outcome) -> Vec<String> {
    let said = outcome.problems.iter().map(|problem| {
        let place = &problem.diagnostic.place;
        format!("{}:{} {}", place.line, place.column, problem.diagnostic.message)
    });
    said.collect()
}

pub(super) const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: { name: b, namespace: shop }\nspec: { ports: [{ name: http, port: 80 }] }\n";

/// An HTTPRoute of `shop/b` with a `spec` that goes on.
pub(super) fn route(name: &str, rest: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: {name}, namespace: shop }}\n\
         spec:\n  parentRefs: [{{ group: \"\", kind: Service, name: b }}]\n{rest}"
    )
}
