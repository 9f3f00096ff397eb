//! What of a request consistent hashing goes by: a rule's [`HashKey`]s made one number.

mod xxh64;

pub use xxh64::xxh64;
