//! The dispatcher against a receiver on loopback that does as it is told.

mod admin;
mod failures;
mod ordinary;
mod world;
