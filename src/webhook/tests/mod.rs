//! The dispatcher against a receiver on loopback that does as it is told.

mod admin;
mod delivery;
mod failures;
mod fixture;
