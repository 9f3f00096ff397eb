//! Tests of the configuration language from outside: what people write, and what they are told.

mod control_plane;
mod diagnostics;
mod diff;
mod examples;
mod guards;
mod opaque;
mod properties;
mod resilience;
mod scale;
