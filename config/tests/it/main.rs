//! Tests of the configuration language from outside: what people write, and what they are told.

mod diagnostics;
mod diff;
mod examples;
mod guards;
mod properties;
mod scale;
