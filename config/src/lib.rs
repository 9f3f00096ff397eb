//! The language of Outrigger's configuration. No sockets, no runtime.
//!
//! ```text
//! yaml      text to a tree in which every value knows its place
//! read      the tree to raw types, through serde, reporting every unknown field and wrong type
//! raw       the configuration as written; also the JSON Schema
//! validate  raw to model, reporting everything that is wrong
//! model     the configuration as the proxy uses it
//! built     the same rules for a model that was built in code
//! ```
//!
//! [`load`] runs all of it and gives a [`Validated`](model::Validated) configuration, or every problem at once.

pub mod built;
pub mod diagnostics;
pub mod diff;
pub mod grammar;
pub mod language;
pub mod limits;
mod load;
pub mod model;
pub mod pattern;
pub mod raw;
mod read;
mod schema;
mod sink;
mod source;
pub mod spiffe;
mod text;
mod validate;
mod words;
mod yaml;

pub use diagnostics::{Diagnostic, Diagnostics, Severity, Style};
pub use diff::{Diff, diff};
pub use load::{Loaded, load};
pub use schema::json_schema;
