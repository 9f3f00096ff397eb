//! The codec through its public interface.

mod foreign;
mod model;
mod roundtrip;
mod table;
