//! The control plane and proxies that it configures, as processes of their own with real certificates: what is
//! pushed takes effect and disturbs nobody, and what goes wrong on one side changes nothing on the other.
//! The heavy forms (300 pushes, 100 kills, whole rotations of roots) run with `OUTRIGGER_FULL=1`.

mod absence;
mod authority;
mod endpoints;
mod intruders;
mod kills;
mod load;
mod plane;
mod policies;
mod pushes;
mod refusals;
mod town;
