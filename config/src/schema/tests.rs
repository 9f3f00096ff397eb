//! The schema and the loader speak of the same language: whatever the loader takes fits the schema, and every field,
//! default and range of the schema is one of the loader's. The full example is the corpus, so it must have everything.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value, json};

use super::json_schema;
use crate::model::{ControlPlane, Place};
use crate::sink::Sink;
use crate::source::Source;
use crate::yaml::{self, Kind, NodeId, Tree};

use crate::{Diagnostic, Diagnostics, Loaded, diff, load};

const FULL: &str = include_str!("../../examples/full.yaml");
const BOOTSTRAP: &str = include_str!("../../examples/bootstrap.yaml");
/// What cannot stand beside what the examples have.
const INSTEAD: &str = "controlPlane: { servers: [a:1], trustBundle: a.pem, serverName: b, workload: a/b, \
                       serviceAccountTokenFile: c }
";
const ELSEWHERE: &str =
    "controlPlane: { servers: [a:1], trustBundle: a.pem, joinToken: { environment: OUTRIGGER_JOIN_TOKEN } }";

#[test]
fn every_example_fits_the_schema() {
    let schema = json_schema();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    for file in std::fs::read_dir(folder).expect("the examples") {
        let text = std::fs::read_to_string(file.expect("an entry").path()).expect("readable");
        assert_eq!(violation(&schema, &schema, &as_json(&text), ""), None);
    }
}

#[test]
fn the_full_example_has_every_field_of_the_schema() {
    let schema = json_schema();
    let mut all = fields_of("", &schema);
    for (name, definition) in schema["$defs"].as_object().expect("definitions") {
        all.extend(fields_of(name, definition));
        // An enum with values has its fields in its alternatives.
        for way in definition["oneOf"].as_array().into_iter().flatten() {
            all.extend(fields_of(name, way));
        }
    }
    let mut seen = BTreeSet::new();
    for text in [FULL, BOOTSTRAP, INSTEAD, ELSEWHERE] {
        assert!(load("a", text).is_ok(), "{text}");
        walk(&schema, &as_json(text), &mut |at| {
            seen.insert(format!("{}.{}", at.owner, at.field));
        });
    }
    assert_eq!(all.difference(&seen).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn every_default_of_the_schema_is_what_the_loader_takes_without_the_field() {
    let found: usize = [FULL, BOOTSTRAP].into_iter().map(defaults_of).sum();
    assert!(found > 80, "{found}");
}

fn nowhere() -> Place {
    Place { file: "".into(), line: 1, column: 1 }
}

/// Checks the defaults of every field of a text, and gives how many there were.
fn defaults_of(text: &str) -> usize {
    let (schema, full) = (json_schema(), as_json(text));
    let mut found = 0;
    let mut defaults = Vec::new();
    walk(&schema, &full, &mut |at| {
        if let Some(default) = at.schema.get("default") {
            defaults.push((at.pointer.to_owned(), default.clone()));
        }
    });
    for (pointer, default) in defaults {
        let (parent, field) = pointer.rsplit_once('/').expect("a field");
        let (mut without, mut with) = (full.clone(), full.clone());
        without.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object").remove(field);
        *with.pointer_mut(&pointer).expect("the field") = default;
        match (load("a", &without.to_string()), load("a", &with.to_string())) {
            (Ok(without), Ok(with)) => {
                let difference = diff(&without.config, &with.config);
                assert!(difference.is_empty(), "{pointer}: {difference}");
                let settings = |loaded: Loaded| loaded.control_plane.map(|of| ControlPlane { place: nowhere(), ..of });
                assert_eq!(settings(without), settings(with), "{pointer}");
                found += 1;
            }
            // Something else needs another value, and says so either way.
            (Err(without), Err(with)) => {
                let messages = |problems: Diagnostics| problems.iter().map(|p| p.message.clone()).collect::<Vec<_>>();
                assert_eq!(messages(without), messages(with), "{pointer}");
            }
            (without, with) => panic!("{pointer}: {:?} {:?}", without.err(), with.err()),
        }
    }
    found
}

#[test]
fn every_range_of_the_schema_is_the_loaders() {
    let (schema, full) = (json_schema(), as_json(FULL));
    let mut ranges = Vec::new();
    walk(&schema, &full, &mut |at| {
        if let (Some(min), Some(max)) = (at.schema.get("minimum"), at.schema.get("maximum")) {
            ranges.push((at.pointer.to_owned(), min.as_u64().expect("min"), max.as_u64().expect("max")));
        }
    });
    assert!(ranges.len() > 15, "{ranges:?}");
    for (pointer, min, max) in ranges {
        let mut numbers = vec![(min, true), (max, true), (max + 1, false)];
        numbers.extend(min.checked_sub(1).map(|below| (below, false)));
        for (number, good) in numbers {
            let mut doc = full.clone();
            *doc.pointer_mut(&pointer).expect("the field") = number.into();
            // A number that fits may still not fit those beside it.
            let outside = |problem: &Diagnostic| problem.message.ends_with("is out of range");
            let refused = load("a", &doc.to_string()).is_err_and(|problems| problems.iter().any(outside));
            assert_eq!(refused, !good, "{pointer}: {number}");
        }
    }
}

#[test]
fn what_does_not_fit_the_schema_does_not_load() {
    let (schema, mut full) = (json_schema(), as_json(FULL));
    // What it took over from another cluster is there once already.
    let merged = full.pointer_mut("/clusters/payments-v2").and_then(Value::as_object_mut).expect("the cluster");
    merged.retain(|field, _| field == "endpoints");
    let mut pointers = Vec::new();
    places(&full, String::new(), &mut pointers);
    // Once for each kind of place, not for each entry of a list and each cluster.
    let mut kinds = BTreeSet::new();
    pointers.retain(|pointer| kinds.insert(kind(pointer)));
    // Thousands of documents are loaded: by as many threads as there are processors.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let refused: usize = std::thread::scope(|scope| {
        let parts = pointers.chunks(pointers.len().div_ceil(threads));
        let workers: Vec<_> = parts.map(|part| scope.spawn(|| damaged(&schema, &full, part))).collect();
        workers.into_iter().map(|worker| worker.join().expect("every document was judged alike")).sum()
    });
    assert!(refused > 900, "{refused}");
}

/// Damages the document at every place, and gives how often the schema refused it.
fn damaged(schema: &Value, full: &Value, pointers: &[String]) -> usize {
    let mut refused = 0;
    for (at, pointer) in pointers.iter().enumerate() {
        // Two of these at each place, in turn.
        let others = [json!({ "surplus": "x" }), json!("odd word"), json!([[]]), json!(-1)];
        for other in others.into_iter().skip(at % 2).step_by(2) {
            let mut doc = full.clone();
            let here = doc.pointer_mut(pointer).expect("a place");
            // A number or a word of the other kind is text where text is wanted: the loader takes what is written.
            if here.is_string() && !other.is_string() && !other.is_object() && !other.is_array() && !other.is_null() {
                continue;
            }
            *here = other;
            check(schema, &doc, pointer, &mut refused);
        }
        let mut doc = full.clone();
        if let Some(object) = doc.pointer_mut(pointer).and_then(Value::as_object_mut) {
            object.insert("surplus".to_owned(), json!("x"));
            check(schema, &doc, pointer, &mut refused);
        }
        if let Some((parent, field)) = pointer.rsplit_once('/') {
            let mut doc = full.clone();
            match doc.pointer_mut(parent) {
                Some(Value::Object(object)) => drop(object.remove(field)),
                Some(Value::Array(list)) => drop(list.remove(field.parse().expect("an index"))),
                _ => continue,
            }
            check(schema, &doc, pointer, &mut refused);
        }
    }
    refused
}

fn check(schema: &Value, doc: &Value, pointer: &str, refused: &mut usize) {
    if let Some(violation) = violation(schema, schema, doc, "") {
        *refused += 1;
        assert!(load("a", &doc.to_string()).is_err(), "{pointer}: the schema alone refuses {violation}");
    }
}

fn places(value: &Value, pointer: String, out: &mut Vec<String>) {
    match value {
        Value::Object(object) => object.iter().for_each(|(key, inner)| places(inner, format!("{pointer}/{key}"), out)),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, inner)| places(inner, format!("{pointer}/{i}"), out));
        }
        _ => {}
    }
    out.push(pointer);
}

/// A place without the numbers of list entries and the names of clusters, tables and the like.
fn kind(pointer: &str) -> String {
    const NAMED: [&str; 5] = ["routes", "clusters", "authorization", "jwtProviders", "rateLimitServices"];
    let segments: Vec<&str> = pointer.split('/').collect();
    let general = segments.iter().enumerate().map(|(at, segment)| {
        let named = at == 2 && NAMED.contains(&segments[1]);
        if named || segment.parse::<usize>().is_ok() { "*" } else { segment }
    });
    general.collect::<Vec<_>>().join("/")
}

fn fields_of(owner: &str, schema: &Value) -> BTreeSet<String> {
    schema["properties"].as_object().into_iter().flatten().map(|(field, _)| format!("{owner}.{field}")).collect()
}

/// A field of the schema that a document has.
struct At<'a> {
    owner: &'a str,
    field: &'a str,
    schema: &'a Map<String, Value>,
    pointer: &'a str,
}

/// Visits every field of `value` that the schema knows.
fn walk(root: &Value, value: &Value, visit: &mut dyn FnMut(&At<'_>)) {
    step(root, ("", root), (value, ""), visit);
}

fn step(root: &Value, (owner, schema): (&str, &Value), (value, path): (&Value, &str), visit: &mut dyn FnMut(&At<'_>)) {
    if let Some(name) = schema["$ref"].as_str().and_then(|r| r.strip_prefix("#/$defs/")) {
        step(root, (name, &root["$defs"][name]), (value, path), visit);
    }
    for way in ["anyOf", "oneOf"].into_iter().flat_map(|k| schema[k].as_array().into_iter().flatten()) {
        if violation(root, way, value, path).is_none() {
            step(root, (owner, way), (value, path), visit);
        }
    }
    for (i, inner) in value.as_array().into_iter().flatten().enumerate() {
        step(root, (owner, &schema["items"]), (inner, &format!("{path}/{i}")), visit);
    }
    for (field, inner) in value.as_object().into_iter().flatten() {
        let pointer = format!("{path}/{field}");
        match schema["properties"].get(field).and_then(Value::as_object) {
            Some(property) => {
                visit(&At { owner, field, schema: property, pointer: &pointer });
                step(root, (owner, &schema["properties"][field]), (inner, &pointer), visit);
            }
            None => step(root, (owner, &schema["additionalProperties"]), (inner, &pointer), visit),
        }
    }
}

/// Checks `value` against as much of JSON Schema as the schema uses, and gives the first violation.
fn violation(root: &Value, schema: &Value, value: &Value, path: &str) -> Option<String> {
    let wrong = |what: &str| Some(format!("{path}: {what}"));
    let Some(schema) = schema.as_object() else {
        return if schema == &Value::Bool(false) { wrong("nothing fits") } else { None };
    };
    let number = |rule: &Value| rule.as_u64().expect("a number");
    schema.iter().find_map(|(keyword, rule)| match keyword.as_str() {
        "$ref" => {
            let name = rule.as_str().and_then(|r| r.strip_prefix("#/$defs/")).expect("a local reference");
            violation(root, &root["$defs"][name], value, path)
        }
        "type" => {
            let fits = match rule.as_str().expect("one type") {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "integer" => value.is_u64() || value.is_i64(),
                "number" => value.is_number(),
                "boolean" => value.is_boolean(),
                other => panic!("unknown type {other}"),
            };
            if fits { None } else { wrong(&format!("not of type {rule}")) }
        }
        "enum" if !rule.as_array().expect("a list").contains(value) => wrong("not in the enum"),
        "const" if rule != value => wrong("not the constant"),
        "minimum" if value.is_i64() && value.as_u64().is_none_or(|n| n < number(rule)) => wrong("too small"),
        "maximum" if value.as_u64().is_some_and(|n| n > number(rule)) => wrong("too large"),
        "minItems" if value.as_array().is_some_and(|list| (list.len() as u64) < number(rule)) => wrong("too few"),
        "pattern" => {
            // Two patterns, hundreds of thousands of comparisons.
            thread_local!(static PATTERNS: RefCell<HashMap<String, regex::Regex>> = RefCell::default());
            let fits = |text: &str| {
                PATTERNS.with_borrow_mut(|patterns| {
                    let rule = rule.as_str().expect("text").to_owned();
                    let compile = |rule: &String| regex::Regex::new(rule).expect("a pattern");
                    patterns.entry(rule).or_insert_with_key(compile).is_match(text)
                })
            };
            if value.as_str().is_some_and(|text| !fits(text)) { wrong("not of the pattern") } else { None }
        }
        "required" => {
            let mut names = rule.as_array().expect("a list").iter().filter_map(Value::as_str);
            let missing = value.as_object().and_then(|object| names.find(|name| !object.contains_key(*name)));
            missing.and_then(|name| wrong(&format!("{name} is missing")))
        }
        "properties" => value.as_object().and_then(|object| {
            object.iter().find_map(|(key, inner)| violation(root, rule.get(key)?, inner, &format!("{path}/{key}")))
        }),
        "additionalProperties" => value.as_object().and_then(|object| {
            let known = schema.get("properties").and_then(Value::as_object);
            let mut extra = object.iter().filter(|(key, _)| known.is_none_or(|known| !known.contains_key(*key)));
            extra.find_map(|(key, inner)| violation(root, rule, inner, &format!("{path}/{key}")))
        }),
        "items" => value.as_array().and_then(|list| {
            let mut each = list.iter().enumerate();
            each.find_map(|(i, inner)| violation(root, rule, inner, &format!("{path}/{i}")))
        }),
        "anyOf" | "oneOf" => {
            let mut fitting = rule.as_array().expect("a list").iter();
            let first = fitting.find(|way| violation(root, way, value, path).is_none());
            let second = fitting.find(|way| violation(root, way, value, path).is_none());
            match (first, second) {
                (None, _) => wrong("fits no alternative"),
                (Some(_), Some(_)) if keyword == "oneOf" => wrong("fits several alternatives"),
                _ => None,
            }
        }
        "enum" | "const" | "minimum" | "maximum" | "minItems" => None,
        "$schema" | "$defs" | "title" | "description" | "default" | "examples" | "format" => None,
        other => panic!("the schema uses {other}, which this test does not know"),
    })
}

/// A text as an editor's YAML reader would see it.
fn as_json(text: &str) -> Value {
    let sink = Sink::new(Source::new("a", text));
    let tree = yaml::parse(&sink);
    assert!(!sink.has_errors());
    node(&tree, tree.root.expect("a document"))
}

fn node(tree: &Tree<'_>, id: NodeId) -> Value {
    match &tree.node(id).kind {
        Kind::Seq(items) => items.iter().map(|id| node(tree, *id)).collect(),
        Kind::Map(pairs) => {
            pairs.iter().map(|(key, value)| (tree.text(*key).expect("a word").to_owned(), node(tree, *value))).collect()
        }
        Kind::Scalar { text, plain: true } => {
            let word = serde_json::from_str(text).ok().filter(|value: &Value| !value.is_string());
            word.unwrap_or_else(|| Value::from(text.as_ref()))
        }
        Kind::Scalar { text, plain: false } => Value::from(text.as_ref()),
        Kind::Broken => panic!("a broken value"),
    }
}
