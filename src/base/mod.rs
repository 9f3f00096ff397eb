//! Layer 0: what every other layer stands on.

pub mod clock;
pub mod drain;
pub mod limits;
pub mod pressure;
pub mod task;
pub mod timer;
pub mod wake;
pub mod worker;
