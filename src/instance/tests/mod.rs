//! Linked devices without a network: supervisor, actors and the doors around them, on a real store, with clients that do
//! what the test says.

mod fixture;
mod messages;
mod pairing;
mod rate_limit;
